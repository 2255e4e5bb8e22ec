"""The penalty on whole weight matrices, its gradient, and shards of rows, beside the dense formula in float64."""

from functools import partial

import pytest
import torch
from kit.references import orthonormal, randn, relative_error

from asft_lightning.functional import QuadraticForm, full_update_penalty, gram_map, subspace_map, update_penalty

SHAPES = {"square": (32, 32), "wide": (16, 64), "tall": (64, 16), "big": (256, 192)}


def any_form(d, beta, weights, seed=0):
    return QuadraticForm(beta, orthonormal(d, len(weights), seed).float(), torch.tensor(weights))


# kind: the form of a side of width d
FORMS = {
    "identity": lambda d: None,
    "gram": lambda d: gram_map(0.3 * randn(d, d, seed=5), tolerance=0).form,
    "subspace": lambda d: subspace_map(0.3 * randn(d, d, seed=5), num_directions=3).form,
    "harmful": lambda d: any_form(d, 0.0, [1.0, 1.0]),
    "activation": lambda d: any_form(d, 0.02, [9.0, 4.0, 1.0, 0.5, 0.03]),
}


def dense(form, d):
    return torch.eye(d, dtype=torch.float64) if form is None else form.to(torch.float64).dense()


def dense_penalty(weight, aligned, out, inp):
    update = weight - aligned
    return torch.trace(update.mT @ dense(out, update.shape[0]) @ update @ dense(inp, update.shape[1]))


def value_and_gradient(penalty, weight):
    weight = weight.detach().clone().requires_grad_()
    value = penalty(weight)
    return value.detach().squeeze(), *torch.autograd.grad(value.sum(), weight)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("inp", FORMS)
@pytest.mark.parametrize("out", FORMS)
def test_value_and_gradient_are_the_dense_ones(out, inp, shape):
    aligned, weight = randn(*shape), randn(*shape) + 0.01 * randn(*shape, seed=1)
    forms = FORMS[out](shape[0]), FORMS[inp](shape[1])
    found = value_and_gradient(lambda w: full_update_penalty([w], aligned[None], *forms), weight)
    expected = value_and_gradient(lambda w: dense_penalty(w, aligned.double(), *forms), weight.double())
    assert [relative_error(f, e) < 1e-5 for f, e in zip(found, expected, strict=True)] == [True] * 2


def test_worked_by_hand():
    # ΔW = [[1, 2], [2, 4]]; M_out = diag(0, 1) leaves its second row, M_in = diag(1, 0.5) halves the second square.
    weight, aligned = torch.tensor([[2.0, 2.0], [2.0, 5.0]]), torch.eye(2)[None]
    out = QuadraticForm(1.0, torch.tensor([[1.0], [0.0]]), torch.tensor([0.0]))
    inp = QuadraticForm(1.0, torch.tensor([[0.0], [1.0]]), torch.tensor([0.5]))
    assert full_update_penalty([weight], aligned).tolist() == [1 + 4 + 4 + 16]
    assert full_update_penalty([weight], aligned, out).tolist() == [4 + 16]
    assert full_update_penalty([weight], aligned, out, inp).tolist() == pytest.approx([4 + 8])


@pytest.mark.parametrize("out", FORMS)
@pytest.mark.parametrize("inp", FORMS)
def test_of_an_update_of_low_rank_it_is_that_of_its_factors(out, inp):
    a, b = randn(4, 24, seed=1), randn(20, 4, seed=2)
    forms = FORMS[out](20), FORMS[inp](24)
    found = full_update_penalty([b @ a], torch.zeros(1, 20, 24), *forms)
    assert found.item() == pytest.approx(update_penalty(a, b, *forms).item(), rel=1e-5)


def test_never_negative_where_everything_cancels():
    # c = 1 and ΔW in span(U): the true penalty is 0, and a difference of two terms would fall below it half of the time.
    for seed in range(300):
        u = orthonormal(64, 8, seed=seed).float()
        update = u @ randn(8, 32, seed=seed)
        penalty = full_update_penalty([update], torch.zeros(1, 64, 32), QuadraticForm(1.0, u, torch.zeros(8)))
        assert 0 <= penalty < 1e-9 * update.square().sum()


@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_are_those_of_the_value(sides):
    def form(d, k, is_there):
        u = torch.stack([orthonormal(d, k, seed=s) for s in range(2)])
        return QuadraticForm(0.5, u, randn(2, k, dtype=torch.float64).abs()) if is_there else None

    out, inp = form(6, 2, sides[0]), form(5, 3, sides[1])
    weights = [randn(6, 5, dtype=torch.float64, seed=s).requires_grad_() for s in range(2)]
    aligned = torch.zeros(2, 6, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *w: full_update_penalty(w, aligned, out, inp), weights)


def test_weights_of_16_bits_are_compared_in_32():
    aligned = randn(1, 8, 6).bfloat16()
    weight = (aligned[0].float() + 0.1).bfloat16()
    found = full_update_penalty([weight], aligned)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(float((weight.double() - aligned[0].double()).square().sum()), rel=1e-6)


def test_nothing_of_the_weights_size_is_kept_between_the_passes():
    weights = [randn(64, 48, seed=s).requires_grad_() for s in range(3)]
    aligned, kept = torch.zeros(3, 64, 48), []
    own = {w.data_ptr() for w in (*weights, aligned)}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        penalty = full_update_penalty(weights, aligned, any_form(64, 1.0, [0.5]), any_form(48, 1.0, [2.0]))
    penalty.sum().backward()
    assert {t.data_ptr() for t in kept} <= own
    assert all(w.grad.any() for w in weights)


class Shards:
    """Two ranks in one process: what the first asks a total of waits for what the second adds."""

    def __init__(self, parts):
        self.parts = iter(parts)

    def __call__(self, own):
        return own + next(self.parts)


def test_rows_of_one_rank_with_the_sums_of_the_other():
    """The uneven parts of 7 rows: of the first 4 the gradient is that of the whole, and so is the value."""
    weight, aligned = randn(7, 5), randn(1, 7, 5, seed=1)
    out, inp = any_form(7, 1.0, [0.2, 3.0]), any_form(5, 0.5, [2.0])
    whole_penalty = partial(full_update_penalty, rows=out, columns=inp)
    value, gradient = value_and_gradient(lambda w: whole_penalty([w], aligned), weight)

    first, second = slice(0, 4), slice(4, 7)
    own_rows = QuadraticForm(out.beta, out.directions[first], out.weights)
    z = out.directions[second].mT @ (weight - aligned[0])[second]
    half = out.powered(weight - aligned[0], out.directions.mT @ (weight - aligned[0]), 0.5)
    full = inp.powered(half.mT, inp.directions.mT @ half.mT, 0.5).mT
    parts = [z, full[second].square().sum()]
    own = value_and_gradient(
        lambda w: full_update_penalty([w], aligned[:, first], own_rows, inp, Shards(parts)), weight[first]
    )
    torch.testing.assert_close(own, (value, gradient[first]), rtol=1e-5, atol=1e-6)
