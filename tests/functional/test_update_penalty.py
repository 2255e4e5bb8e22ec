import pytest
import torch
from kit.references import (
    dense_gram,
    dense_penalty,
    dense_projector,
    orthonormal,
    randn,
    relative_error,
    value_and_gradients,
)

from asft_lightning.functional import QuadraticForm, gram_map, harmful_map, subspace_map, update_penalty

SHAPES = {"square": (32, 32), "wide": (16, 64), "tall": (64, 16), "big": (256, 192)}
HARMFUL_RANK = 4


def harmful_update(d_out, d_in):
    return randn(HARMFUL_RANK, d_in, seed=7), randn(d_out, HARMFUL_RANK, seed=8)


def eye(d):
    return torch.eye(d, dtype=torch.float64)


def dense_harmful(v):
    a, b = harmful_update(*v.shape)
    return eye(v.shape[0]) - dense_projector(b.double() @ a.double(), 2)  # I − C is then the projector itself


def directions_for(v, share):
    squares = torch.linalg.svdvals(v.double()).square()
    return int((squares.cumsum(0) / squares.sum() < share).sum()) + 1


# variant: (the form under test, the dense map C of its penalty ‖(I − C)BA‖²)
VARIANTS = {
    "gram": (lambda v: gram_map(v, tolerance=0).form, dense_gram),
    "subspace k": (lambda v: subspace_map(v, num_directions=3).form, lambda v: dense_projector(v, 3)),
    "subspace share": (
        lambda v: subspace_map(v, explained_variance=0.6).form,
        lambda v: dense_projector(v, directions_for(v, 0.6)),
    ),
    "shrinkage": (lambda v: None, lambda v: torch.zeros(v.shape[0], v.shape[0], dtype=torch.float64)),
    "harmful": (lambda v: harmful_map(*harmful_update(*v.shape), 2).form, dense_harmful),
}


@pytest.mark.parametrize("scale", [0.01, 0.3], ids="scale={}".format)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradients_are_the_dense_ones(variant, shape, scale):
    build, dense_map = VARIANTS[variant]
    v, a, b = scale * randn(*shape), randn(8, shape[1], seed=1), randn(shape[0], 8, seed=2)
    form, c = build(v), dense_map(v)
    found = value_and_gradients(lambda a, b: update_penalty(a, b, form), a, b)
    expected = value_and_gradients(lambda a, b: dense_penalty(a, b, c), a.double(), b.double())
    assert [relative_error(f, e) < 1e-5 for f, e in zip(found, expected, strict=True)] == [True] * 3


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_form_on_each_side_is_the_dense_two_sided_penalty(shape):
    v, a, b = 0.3 * randn(*shape), randn(8, shape[1], seed=1), randn(shape[0], 8, seed=2)
    u, w = orthonormal(shape[1], 5), torch.tensor([9.0, 4.0, 1.0, 0.5, 0.0])
    dense_input = eye(shape[1]) - u @ u.T + u @ torch.diag(w.double()) @ u.T
    out, inp = gram_map(v, tolerance=0).form, QuadraticForm(1.0, u.float(), w)
    found = value_and_gradients(lambda a, b: update_penalty(a, b, out, inp), a, b)
    expected = value_and_gradients(lambda a, b: dense_penalty(a, b, dense_gram(v), dense_input), a.double(), b.double())
    assert [relative_error(f, e) < 1e-5 for f, e in zip(found, expected, strict=True)] == [True] * 3


def test_worked_by_hand():
    # BA = [[1, 2], [2, 4]]; C = diag(1, 0) leaves its second row: 4 + 16.
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [2.0]])
    form = QuadraticForm(1.0, torch.tensor([[1.0], [0.0]]), torch.tensor([0.0]))
    assert update_penalty(a, b, form).item() == 20
    assert update_penalty(a, b).item() == 1 + 4 + 4 + 16


@pytest.mark.parametrize("variant", ["gram", "subspace k"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_updates_inside_the_span_agree_to_the_rounding_of_the_terms(variant, shape):
    build, dense_map = VARIANTS[variant]
    v = 0.3 * randn(*shape)
    form, c = build(v), dense_map(v)
    a, b = randn(4, shape[1], seed=1), form.directions @ randn(form.directions.shape[1], 4, seed=2)
    found = update_penalty(a, b, form)
    terms = (b.double() @ a.double()).square().sum()
    assert found >= 0
    assert abs(found.double() - dense_penalty(a, b, c)) < 1e-5 * terms


@pytest.mark.parametrize(("d", "k"), [(64, 8), (48, 47), (16, 1)])
def test_never_negative_where_everything_cancels(d, k):
    # c = 1 and B in span(U): the true penalty is 0, and a difference of two terms would fall below it half of the time.
    for seed in range(300):
        u = orthonormal(d, k, seed=seed).float()
        a, b = randn(4, d, seed=seed), u @ randn(k, 4, seed=seed + 1000)
        penalty = update_penalty(a, b, QuadraticForm(1.0, u, torch.zeros(k)))
        assert 0 <= penalty < 1e-9 * (b @ a).square().sum()


def test_never_negative_where_the_factors_cancel_each_other():
    # BA = s·b·a − s·b·a = 0 with large factors: the inner product of the two Gram matrices is rounding alone.
    for seed in range(100):
        (s,), a, b = randn(1, seed=seed).tolist(), randn(1, 20, seed=seed + 1), randn(30, 1, seed=seed + 2)
        assert 0 <= update_penalty(torch.cat([s * a, -a]), torch.cat([b, s * b], dim=1)) < 1e-2


def test_a_projector_is_stationary_inside_its_span():
    u = orthonormal(32, 4).float()
    a, b = randn(4, 16), u @ randn(4, 4, seed=1)
    form = QuadraticForm(1.0, u, torch.zeros(4))
    _, *gradients = value_and_gradients(lambda a, b: update_penalty(a, b, form), a, b)
    _, *without = value_and_gradients(update_penalty, a, b)
    assert all(g.norm() < 1e-5 * w.norm() for g, w in zip(gradients, without, strict=True))


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("layers", [(), (3,)])
def test_gradients_are_those_of_the_value(beta, layers):
    def sample(*shape):
        return randn(*layers, *shape, dtype=torch.float64, seed=len(shape) + shape[0])

    out = QuadraticForm(beta, torch.linalg.qr(sample(6, 2)).Q, sample(2).abs())
    inp = QuadraticForm(1.0, torch.linalg.qr(sample(5, 3)).Q, sample(3).abs())
    factors = (sample(2, 5).requires_grad_(), sample(6, 2).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: update_penalty(a, b, out, inp), factors)


def test_layers_are_independent():
    a, b = randn(3, 4, 10), randn(3, 12, 4, seed=1)
    forms = [gram_map(0.3 * randn(12, 10, seed=s), tolerance=0).form for s in range(3)]
    stacked = QuadraticForm(1.0, *(torch.stack([getattr(f, x) for f in forms]) for x in ("directions", "weights")))
    one_by_one = torch.stack([update_penalty(a[i], b[i], form) for i, form in enumerate(forms)])
    torch.testing.assert_close(update_penalty(a, b, stacked), one_by_one, rtol=1e-6, atol=0)
