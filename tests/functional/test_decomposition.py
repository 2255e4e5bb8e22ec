import pytest
import torch
from kit.references import orthonormal, randn, relative_error

from asft_lightning.functional import decomposition, leading_left_singular, left_singular, low_rank_left_singular

SHAPES = [(12, 12), (8, 20), (20, 8), (1, 9), (9, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_singular_value_decomposition(shape):
    matrix = randn(*shape)
    found, expected = left_singular(matrix), torch.linalg.svd(matrix.double(), full_matrices=False)
    assert found.u.dtype == found.sigma.dtype == torch.float64
    assert relative_error(found.sigma, expected.S) < 1e-12
    cosines = (found.u * expected.U).sum(dim=0).abs()  # columns are unique up to their sign
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_orthonormal_also_at_small_singular_values(shape):
    n = min(shape)
    left, right = (torch.linalg.qr(randn(d, n, seed=d, dtype=torch.float64)).Q for d in shape)
    u = left_singular(left @ torch.diag(torch.logspace(0, -6, n, dtype=torch.float64)) @ right.T).u
    torch.testing.assert_close(u.T @ u, torch.eye(u.shape[1], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_directions_stop_at_the_rank(shape):
    matrix = randn(shape[0], 3) @ randn(3, shape[1], seed=1)
    found = left_singular(matrix.double())
    assert len(found.sigma) == 3 and found.u.shape == (shape[0], 3)


def test_zero_has_no_directions():
    assert left_singular(torch.zeros(4, 6)).u.shape == (4, 0)


@pytest.mark.parametrize("shape", [(16, 10), (10, 16)])
def test_low_rank_agrees_with_the_product(shape):
    a, b = randn(4, shape[1]), randn(shape[0], 4, seed=1)
    found, expected = low_rank_left_singular(a, b), torch.linalg.svd(b.double() @ a.double())
    assert relative_error(found.sigma, expected.S[:4]) < 1e-12
    projector = expected.U[:, :4] @ expected.U[:, :4].T
    assert relative_error(found.u @ found.u.T, projector) < 1e-10


SPECTRA = {
    "decaying": torch.logspace(0, -3, 150, dtype=torch.float64),
    "heavy-tailed": torch.arange(1, 151, dtype=torch.float64) ** -0.5,
    "flat": torch.ones(150, dtype=torch.float64),
    "of low rank": torch.ones(6, dtype=torch.float64),
}


@pytest.fixture
def iterates(monkeypatch):
    """The iteration that large matrices go through, on small ones."""
    monkeypatch.setattr(decomposition, "EXACT_UP_TO", 32)
    monkeypatch.setattr(decomposition, "_BLOCK_WIDTH", 16)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(160, 160), (150, 400), (400, 150)])
def test_no_singular_value_above_the_ceiling_is_left_out(iterates, shape, spectrum):
    sigma = SPECTRA[spectrum]
    left, right = (orthonormal(d, len(sigma), seed=d) for d in shape)
    matrix = (left @ torch.diag(sigma) @ right.T).float()
    kept = matrix.clone()
    ceiling = 0.3
    found = leading_left_singular(matrix, lambda _: ceiling)
    u = found.u.double()
    assert torch.allclose(matrix, kept, atol=1e-6), "the caller's matrix is put back"
    torch.testing.assert_close(u.T @ u, torch.eye(u.shape[1], dtype=torch.float64), rtol=0, atol=1e-5)
    outside = kept.double() - u @ (u.T @ kept.double())
    assert torch.linalg.matrix_norm(outside, 2) <= max(found.rest, 1e-6) <= ceiling
    leak = torch.linalg.vector_norm(outside @ (kept.double().T @ u), dim=0)
    torch.testing.assert_close(found.leak.double(), leak, rtol=0.01, atol=1e-5)


def test_what_is_not_exact_enough_is_iterated_on(iterates):
    matrix = randn(400, 400) / 30
    leaks: list[float] = []

    def accept(found):
        leaks.append(float(found.leak.max()))
        return len(leaks) == 3

    leading_left_singular(matrix, lambda _: 1.9, accept)
    assert leaks[2] < leaks[1] < leaks[0]


def test_directions_below_the_ceiling_are_not_asked_to_be_exact(iterates):
    """A spectrum that falls slowly: those at the end of a space are never near their place, and are not given out."""
    sigma = torch.arange(1, 401, dtype=torch.float64) ** -0.5
    matrix = (orthonormal(400, 400, seed=1) * sigma @ orthonormal(400, 400, seed=2).T).float()
    found = leading_left_singular(matrix, lambda _: 0.25, lambda pairs: bool(pairs.leak.norm() < 1e-3))
    assert 16 <= len(found.sigma) < 20, "1/√16 = 0.25; a few more, and not the space that found them"
    assert found.rest == 0.25


def test_the_largest_direction_is_found_under_any_ceiling(iterates):
    found = leading_left_singular(randn(200, 200), lambda _: 1e3)
    assert len(found.sigma) == 1 and found.rest == 1e3


def test_a_matrix_that_needs_most_of_its_directions_is_decomposed_whole(iterates):
    found = leading_left_singular(randn(100, 120), lambda _: 1e-3)
    assert len(found.sigma) == 100 and found.rest == 0 and not found.leak.any()
