"""Low rank against the dense singular value decomposition."""

import pytest
import torch
from kit.references import randn

from asft_lightning.functional import low_rank, low_rank_sum


def best(matrix, rank):
    """(the closest matrix of that rank, its relative error), by Eckart and Young."""
    u, sigma, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    closest = (u * sigma)[:, :rank] @ v[:rank]
    return closest, float((matrix - closest).norm() / matrix.norm())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
@pytest.mark.parametrize("rank", [1, 4, 24])
def test_of_a_matrix(shape, rank):
    matrix = randn(*shape, seed=1, dtype=torch.float64)
    expected, error = best(matrix, rank)
    found = low_rank(matrix, rank)
    assert (found.a.shape, found.b.shape) == ((rank, shape[1]), (shape[0], rank))
    torch.testing.assert_close(found.b @ found.a, expected)
    assert found.error == pytest.approx(error, abs=1e-7)


@pytest.mark.parametrize("rank", [2, 4, 7, 9])
def test_of_a_sum(rank):
    """Of ranks 4 and 3, so that 7 is exact and of 9 two are zeros."""
    a, b, other_a, other_b = (randn(*s, seed=i) for i, s in enumerate([(4, 30), (20, 4), (3, 30), (20, 3)]))
    matrix = 0.8 * b.double() @ a.double() - 1.7 * other_b.double() @ other_a.double()
    expected, error = best(matrix, rank)
    found = low_rank_sum([(0.8, a, b), (-1.7, other_a, other_b)], rank)
    assert (found.a.shape, found.b.shape) == ((rank, 30), (20, rank))
    torch.testing.assert_close(found.b @ found.a, expected, rtol=1e-9, atol=1e-9)
    assert found.error == pytest.approx(error, abs=1e-7)


def test_of_nothing():
    for found in (low_rank(torch.zeros(5, 6), 2), low_rank_sum([(1.0, torch.zeros(2, 6), torch.zeros(5, 2))], 2)):
        assert found.error == 0.0 and not (found.b @ found.a).any()
