"""C·B and the proximal map, against dense float64 matrices and against numeric minimisation."""

import pytest
import torch
from kit.references import dense_gram, orthonormal, randn

from asft_lightning.functional import QuadraticForm, gram_applied, shrunk, update_cosine, update_product


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (600, 20)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gram_applied_is_the_dense_product(shape, dtype):
    v, b = randn(*shape, seed=1).to(dtype), randn(shape[0], 4, seed=2)
    torch.testing.assert_close(gram_applied(v, b), dense_gram(v) @ b.double(), rtol=1e-12, atol=1e-12)


def dense_form(form):
    return torch.eye(24, dtype=torch.float64) if form is None else form.dense()


FORMS = {
    "shrinkage": None,
    "gram": QuadraticForm(1.0, orthonormal(24, 5), torch.tensor([0.81, 0.3, 0.0, 4.0, 0.9], dtype=torch.float64)),
    "subspace": QuadraticForm(1.0, orthonormal(24, 3, seed=3), torch.zeros(3, dtype=torch.float64)),
    "harmful": QuadraticForm(0.0, orthonormal(24, 2, seed=4), torch.ones(2, dtype=torch.float64)),
}


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_shrunk_is_the_numeric_minimiser(form, strength):
    """Over every update X (d_out, d_in), of any rank: none is better than the one of the closed form."""
    a, b = randn(4, 16, seed=5, dtype=torch.float64), randn(24, 4, seed=6, dtype=torch.float64)
    update, metric = b @ a, dense_form(form)
    x = torch.zeros_like(update, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=400, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        value = (x - update).square().sum() + strength * (x * (metric @ x)).sum()
        value.backward()
        return value

    optimizer.step(objective)
    torch.testing.assert_close(shrunk(b, form, strength) @ a, x.detach(), rtol=1e-7, atol=1e-7)


def test_shrunk_by_hand():
    """U = e_1 with w = 3, β = 1, λ = 1: the first row is divided by 4, the others by 2."""
    form = QuadraticForm(1.0, torch.eye(3, 1), torch.tensor([3.0]))
    found = shrunk(torch.tensor([[4.0, 8.0], [2.0, 6.0], [0.0, 10.0]]), form, 1.0)
    assert found.tolist() == [[1.0, 2.0], [1.0, 3.0], [0.0, 5.0]]


def test_shrunk_does_not_depend_on_the_factors():
    """B·R and R⁻¹·A are the same update."""
    a, b, r = (randn(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate([(4, 16), (24, 4), (4, 4)]))
    first = shrunk(b, FORMS["gram"], 2.0) @ a
    torch.testing.assert_close(shrunk(b @ r, FORMS["gram"], 2.0) @ torch.linalg.solve(r, a), first)


def test_product_and_cosine_are_those_of_the_updates():
    shapes = [(4, 16), (24, 4), (24, 3), (3, 16)]
    a, b, other, other_a = (randn(*shape, seed=i) for i, shape in enumerate(shapes))
    x, y = (b.double() @ a.double()).flatten(), (other.double() @ other_a.double()).flatten()
    assert update_product((a, b), (other_a, other)) == pytest.approx(float(x @ y), rel=1e-12)
    assert update_cosine((a, b), (other_a, other)) == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), rel=1e-12)
    assert update_cosine((a, torch.zeros_like(b)), (other_a, other)) == 0.0
