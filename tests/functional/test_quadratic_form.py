import pytest
import torch
from kit.references import orthonormal, randn, relative_error

from asft_lightning.functional import QuadraticForm, applied_and_gram


def gram_of(form, factor):
    return form.applied_and_gram(factor)[1]


def naive_form(beta, u, w):
    d = u.shape[0]
    return beta * (torch.eye(d, dtype=torch.float64) - u @ u.T) + u @ torch.diag(w) @ u.T


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(("d", "k", "r"), [(12, 3, 4), (12, 12, 2), (5, 1, 8), (12, 0, 4)])
def test_gram_is_the_quadratic_form_of_the_dense_matrix(beta, d, k, r):
    u, w, factor = orthonormal(d, k), randn(k, seed=1, dtype=torch.float64).abs(), randn(d, r, dtype=torch.float64)
    form = QuadraticForm(beta, u, w)
    expected = factor.T @ naive_form(beta, u, w) @ factor
    torch.testing.assert_close(gram_of(form, factor), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(form.applied_and_gram(factor)[0], naive_form(beta, u, w) @ factor, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(form.dense(), naive_form(beta, u, w), rtol=1e-12, atol=1e-12)


def test_gram_worked_by_hand():
    # M = diag(5, 3) in the plane: β = 3 everywhere, 5 along the first axis.
    form = QuadraticForm(3.0, torch.tensor([[1.0], [0.0]]), torch.tensor([5.0]))
    assert gram_of(form, torch.tensor([[1.0], [2.0]])).item() == 5 * 1 + 3 * 4


def test_no_form_is_the_identity():
    factor = randn(6, 2)
    assert all(map(torch.equal, applied_and_gram(factor, None), (factor, factor.T @ factor)))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_padding_with_zero_directions_changes_nothing(beta):
    u, w, factor = orthonormal(10, 3), randn(3, seed=1, dtype=torch.float64).abs(), randn(10, 4, dtype=torch.float64)
    padded = QuadraticForm(beta, torch.nn.functional.pad(u, (0, 5)), torch.nn.functional.pad(w, (0, 5)))
    torch.testing.assert_close(gram_of(padded, factor), gram_of(QuadraticForm(beta, u, w), factor), rtol=1e-13, atol=1e-13)


def test_leading_dimensions_are_layers():
    forms = [QuadraticForm(1.0, orthonormal(8, 2, seed=s), randn(2, seed=s, dtype=torch.float64).abs()) for s in range(3)]
    factors = randn(3, 8, 4, dtype=torch.float64)
    batched = QuadraticForm(1.0, torch.stack([f.directions for f in forms]), torch.stack([f.weights for f in forms]))
    one_by_one = torch.stack([gram_of(form, factor) for form, factor in zip(forms, factors, strict=True)])
    assert relative_error(gram_of(batched, factors), one_by_one) < 1e-14
