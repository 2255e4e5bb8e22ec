"""Low rank: the closest update of an adapter's rank, as factors, and how far off it is."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asft_lightning.functional.decomposition import left_singular


class LowRank(NamedTuple):
    """The best approximation of a matrix M (d_out, d_in) by one of rank r, in float64.

    Attributes:
        a: A (r, d_in).
        b: B (d_out, r).
        error: ‖M − BA‖_F / ‖M‖_F, 0 to 1; 0 for M = 0.
    """

    a: Tensor
    b: Tensor
    error: float


def low_rank(matrix: Tensor, rank: int) -> LowRank:
    """Of a matrix at hand, by its leading left singular vectors: B = U, A = UᵀM; fewer than r are filled up with zeros."""
    m = matrix.double()
    u = left_singular(m).u[:, :rank]
    a = u.mT @ m
    whole, kept = float(m.square().sum()), float(a.square().sum())
    error = max(0.0, 1 - kept / whole) ** 0.5 if whole else 0.0
    return LowRank(_rows(a, rank), _rows(u.mT, rank).mT, error)


def low_rank_sum(terms: Sequence[tuple[float, Tensor, Tensor]], rank: int) -> LowRank:
    """Of M = Σ w·B·A, without M: by QR of the stacked factors and a decomposition as wide as all ranks together.

    Args:
        terms: (w, A (n, d_in), B (d_out, n)) each.
        rank: r.
    """
    q_b, r_b = torch.linalg.qr(torch.cat([weight * b.double() for weight, _, b in terms], dim=1))
    q_a, r_a = torch.linalg.qr(torch.cat([a.double() for _, a, _ in terms]).mT)
    u, sigma, v = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    whole, lost = float(sigma.square().sum()), float(sigma[rank:].square().sum())
    b, a = q_b @ (u * sigma)[:, :rank], v[:rank] @ q_a.mT
    return LowRank(_rows(a, rank), _rows(b.mT, rank).mT, (lost / whole) ** 0.5 if whole else 0.0)


def _rows(matrix: Tensor, count: int) -> Tensor:
    return torch.cat([matrix, matrix.new_zeros(count - len(matrix), matrix.shape[1])])
