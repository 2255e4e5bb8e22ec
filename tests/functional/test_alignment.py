import math

import pytest
import torch
from kit.references import dense_gram, dense_penalty, dense_projector, orthonormal, randn, relative_error

from asft_lightning.functional import decomposition, gram_map, harmful_map, split_factor, subspace_map, update_penalty

SHAPES = [(16, 16), (12, 40), (40, 12)]


def with_eigenvalues(d_out, d_in, c):
    """A V (d_out, d_in) whose C = VVᵀ/‖V‖_F has the eigenvalues ``c``: σ_i² = c_i·‖V‖_F, and so ‖V‖_F = Σc."""
    c = torch.tensor(c, dtype=torch.float64)
    left, right = orthonormal(d_out, len(c), seed=3), orthonormal(d_in, len(c), seed=4)
    return left @ torch.diag((c * c.sum()).sqrt()) @ right.T


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_figures_are_those_of_the_dense_map(shape):
    v = 0.3 * randn(*shape)
    found, c = gram_map(v, tolerance=0), dense_gram(v)
    expected = torch.linalg.eigvalsh(c).flip(0)[: min(shape)]
    assert relative_error(found.eigenvalues, expected) < 1e-6
    assert found.spectrum.norm == pytest.approx(float(torch.linalg.matrix_norm(v.double())), rel=1e-12)
    assert found.spectrum.trace == pytest.approx(float(c.trace()), rel=1e-12)
    assert found.spectrum.largest == pytest.approx(float(expected[0]), rel=1e-12)
    assert found.form.directions.dtype == found.form.weights.dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_form_is_the_square_of_the_complement(shape):
    v = 0.3 * randn(*shape)
    complement = torch.eye(shape[0], dtype=torch.float64) - dense_gram(v)
    assert relative_error(gram_map(v, tolerance=0).form.dense(), complement @ complement) < 1e-6


def test_gram_worked_by_hand():
    # ‖V‖_F = 5 and VVᵀ = diag(9, 16): c = 16/5 and 9/5, weights (1 − c)².
    found = gram_map(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    assert found.eigenvalues.tolist() == pytest.approx([3.2, 1.8])
    assert found.form.weights.tolist() == pytest.approx([2.2**2, 0.8**2])
    assert (found.spectrum.norm, found.spectrum.trace, found.spectrum.error_bound) == (pytest.approx(5), pytest.approx(5), 0)


@pytest.mark.parametrize("c", [[0.2, 0.04, 0.01, 0.004, 0.001, 0.0004], [2.7, 1.4, 1.0, 0.3, 0.02, 0.004, 0.003]])
@pytest.mark.parametrize(("shape", "tolerance"), [((16, 16), 0.001), ((10, 30), 0.01), ((30, 10), 0.1), ((16, 16), 1.0)])
def test_gram_error_bound_holds_for_random_and_adversarial_updates(tolerance, c, shape):
    v = with_eigenvalues(*shape, c)
    found, dense = gram_map(v, tolerance), dense_gram(v)
    assert 0 <= found.spectrum.error_bound <= tolerance
    directions = torch.linalg.svd(v).U
    adversaries = [directions[:, i : i + 1] for i in range(shape[0])]
    for b in [*adversaries, *(randn(shape[0], 2, seed=s, dtype=torch.float64) for s in range(10))]:
        a = randn(b.shape[1], shape[1], seed=9, dtype=torch.float64)
        full, kept = dense_penalty(a, b, dense), update_penalty(a.float(), b.float(), found.form).double()
        # Relative to the terms: along c = 1 the penalty itself is 0, and only float32's rounding is left of it.
        rounding = 1e-6 * (b @ a).square().sum()
        assert full - rounding <= kept <= (1 + found.spectrum.error_bound) * full + rounding


def test_gram_error_bound_is_reached_by_the_largest_dropped_direction():
    v = with_eigenvalues(8, 8, [0.5, 0.004, 0.001])
    found = gram_map(v, tolerance=0.01)
    assert len(found.eigenvalues) == 1
    assert found.spectrum.error_bound == pytest.approx((1 - 0.004) ** -2 - 1, rel=1e-6)
    worst = torch.linalg.svd(v).U[:, 1:2]
    kept, full = (dense_penalty(torch.ones(1, 8), worst, c) for c in (0 * v, dense_gram(v)))
    assert float(kept / full) == pytest.approx(1 + found.spectrum.error_bound, rel=1e-6)


def relative_errors(found, dense):
    """Smallest and largest relative error of the penalty over all updates: a generalised eigenvalue problem."""
    n = torch.eye(len(dense), dtype=torch.float64) - dense
    lower = torch.linalg.cholesky(n @ n)
    half = torch.linalg.solve_triangular(lower, found.form.dense().double(), upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(lower, half.mT, upper=False))
    return float(values[0]) - 1, float(values[-1]) - 1


@pytest.mark.parametrize(
    "sigma",
    [
        0.8 * torch.logspace(0, -3, 190, dtype=torch.float64),
        0.5 * torch.arange(1, 191, dtype=torch.float64) ** -0.5,
        2.0 * torch.arange(1, 191, dtype=torch.float64) ** -1.0,
        torch.full((190,), 0.1, dtype=torch.float64),
        torch.full((12,), 0.3, dtype=torch.float64),
    ],
    ids=["decaying", "heavy-tailed", "above 1", "flat", "low rank"],
)
@pytest.mark.parametrize(("shape", "tolerance"), [((200, 200), 0.003), ((190, 500), 0.01), ((500, 190), 0.1)])
def test_the_bound_holds_for_every_update_where_directions_are_iterated(monkeypatch, shape, sigma, tolerance):
    monkeypatch.setattr(decomposition, "EXACT_UP_TO", 32)
    monkeypatch.setattr(decomposition, "_BLOCK_WIDTH", 16)
    left, right = (orthonormal(d, len(sigma), seed=d) for d in shape)
    v = left @ torch.diag(sigma) @ right.T
    found = gram_map(v.float(), tolerance)
    least, most = relative_errors(found, dense_gram(v))
    assert found.spectrum.error_bound <= tolerance
    bound = found.spectrum.error_bound
    assert -bound - 1e-4 <= least and most <= bound + 1e-5  # and float32's rounding of U


@pytest.mark.parametrize("settings", [{"num_directions": 5}, {"explained_variance": 0.6}])
def test_an_iterated_subspace_is_as_good_as_the_best(monkeypatch, settings):
    sigma = torch.arange(1, 191, dtype=torch.float64) ** -0.6
    v = orthonormal(200, 190, seed=1) @ torch.diag(sigma) @ orthonormal(300, 190, seed=2).T
    exact = subspace_map(v, **settings)
    monkeypatch.setattr(decomposition, "EXACT_UP_TO", 32)
    monkeypatch.setattr(decomposition, "_BLOCK_WIDTH", 16)
    found = subspace_map(v.float(), **settings)
    k = len(exact.eigenvalues)
    assert len(found.eigenvalues) == k
    u = found.form.directions.double()
    outside = torch.linalg.matrix_norm(v - u @ (u.T @ v), 2)
    assert outside <= 1.02 * sigma[k]


def test_gram_keeps_at_most_norm_over_epsilon_directions():
    v = 0.002 * randn(64, 64)
    found = gram_map(v, tolerance=0.01)
    assert 1 <= len(found.eigenvalues) <= found.spectrum.norm / (1 - 1.01**-0.5) < 64


@pytest.mark.parametrize("tolerance", [-0.1, math.nan])
def test_gram_refuses_a_tolerance_that_is_no_bound(tolerance):
    with pytest.raises(ValueError, match=r"tolerance of 0 or more, got .* The default 0\.01"):
        gram_map(randn(4, 4), tolerance)


@pytest.mark.parametrize("build", [gram_map, lambda v: subspace_map(v, 1)])
def test_zero_has_no_map(build):
    with pytest.raises(ValueError, match=r"V = W_aligned − W_base must not be 0.*Are the two checkpoints the same"):
        build(torch.zeros(4, 6))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 5])
def test_subspace_is_the_complement_of_the_top_directions(shape, k):
    v = randn(*shape)
    found = subspace_map(v, num_directions=k)
    complement = torch.eye(shape[0], dtype=torch.float64) - dense_projector(v, k)
    assert relative_error(found.form.dense(), complement) < 1e-6
    assert (found.spectrum.trace, found.spectrum.largest, found.spectrum.error_bound) == (k, 1, 0)


@pytest.mark.parametrize(("share", "k"), [(0.5, 1), (0.65, 2), (0.90, 2), (0.91, 3), (0.99, 3), (1.0, 4)])
def test_subspace_keeps_the_fewest_directions_with_the_share_of_variance(share, k):
    # σ² = 60, 30, 9, 1: cumulative shares 0.60, 0.90, 0.99, 1.
    sigma = torch.tensor([60.0, 30.0, 9.0, 1.0], dtype=torch.float64).sqrt()
    v = orthonormal(9, 4) @ torch.diag(sigma) @ orthonormal(7, 4, seed=1).T
    assert len(subspace_map(v, explained_variance=share).eigenvalues) == k


@pytest.mark.parametrize("settings", [{}, {"num_directions": 2, "explained_variance": 0.5}])
def test_subspace_wants_one_of_its_two_settings(settings):
    with pytest.raises(ValueError, match=r"exactly one of num_directions and explained_variance.*Leave the other one null"):
        subspace_map(randn(4, 6), **settings)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_subspace_refuses_directions_outside_the_rank(k):
    with pytest.raises(ValueError, match=rf"1 ≤ num_directions ≤ rank of V = 4, got {k}. Choose a k within"):
        subspace_map(randn(9, 4), num_directions=k)


@pytest.mark.parametrize("share", [0.0, 1.01, -0.5, math.nan])
def test_subspace_refuses_a_share_that_is_none(share):
    with pytest.raises(ValueError, match=r"0 < explained_variance ≤ 1, got .*0\.9 keeps 90 %"):
        subspace_map(randn(4, 6), explained_variance=share)


@pytest.mark.parametrize("settings", [{"num_directions": 4}, {"explained_variance": 1.0}])
def test_subspace_refuses_full_rank(settings):
    with pytest.raises(ValueError, match=r"all 4 output directions: C = I, and the penalty is 0.*Keep fewer"):
        subspace_map(randn(4, 6), **settings)


@pytest.mark.parametrize("k", [1, 3, None])
def test_harmful_penalises_the_top_directions_of_the_harmful_update(k):
    harmful_a, harmful_b = randn(4, 10), randn(14, 4, seed=1)
    found = harmful_map(harmful_a, harmful_b, k)
    expected = dense_projector(harmful_b.double() @ harmful_a.double(), k or 4)
    assert found.form.beta == 0
    assert relative_error(found.form.dense(), expected) < 1e-6


@pytest.mark.parametrize("k", [0, 5])
def test_harmful_refuses_directions_outside_the_rank(k):
    with pytest.raises(ValueError, match=rf"1 ≤ num_directions ≤ rank of the harmful update = 4, got {k}"):
        harmful_map(randn(4, 10), randn(14, 4, seed=1), k)


def test_harmful_refuses_an_untrained_adapter():
    with pytest.raises(ValueError, match=r"rank of 0 means that the harmful adapter was not trained"):
        harmful_map(randn(4, 10), torch.zeros(14, 4))


def test_split_factor_is_the_aligned_and_the_orthogonal_part():
    v, b = 0.3 * randn(12, 20), randn(12, 4, seed=1)
    found = gram_map(v, tolerance=0)
    aligned, orthogonal = split_factor(b, found.form.directions, found.eigenvalues)
    assert relative_error(aligned, dense_gram(v) @ b.double()) < 1e-6
    assert relative_error(orthogonal, b.double() - dense_gram(v) @ b.double()) < 1e-6


@pytest.mark.parametrize("build", [lambda v: subspace_map(v, 2), lambda v: harmful_map(v[:3], v[:, :3], 2), gram_map])
def test_maps_are_float32_under_any_default_dtype(build):
    v = randn(8, 8)
    torch.set_default_dtype(torch.bfloat16)  # as Lightning's bf16-true plugin does in configure_model
    try:
        found = build(v)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {found.form.directions.dtype, found.form.weights.dtype, found.eigenvalues.dtype} == {torch.float32}
