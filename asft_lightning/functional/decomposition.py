"""Left singular vectors of a matrix from the smaller of its two Gram matrices, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor


class LeftSingular(NamedTuple):
    """Left singular vectors ``u`` (d_out, n) and singular values ``sigma`` (n,), largest first, all of them non-zero."""

    u: Tensor
    sigma: Tensor


def left_singular(matrix: Tensor) -> LeftSingular:
    """Decompose ``matrix`` (d_out, d_in) by the eigenvectors of its smaller Gram matrix.

    Eigenvalues below float64's noise on the largest one are no directions of the matrix, and are left out; so n is the
    numerical rank.

    Returns:
        float64 factors, orthonormal to rounding.
    """
    v = matrix.double()
    wide = v.shape[0] <= v.shape[1]
    values, vectors = torch.linalg.eigh(v @ v.mT if wide else v.mT @ v)
    values, vectors = values.flip(0), vectors.flip(1)
    noise = 16 * max(v.shape) * torch.finfo(torch.float64).eps * values[0].clamp_min(0.0)
    rank = int((values > noise).sum())
    sigma = values[:rank].sqrt()
    u = vectors[:, :rank] if wide else _orthonormal(v @ vectors[:, :rank])
    return LeftSingular(u, sigma)


def low_rank_left_singular(lora_a: Tensor, lora_b: Tensor) -> LeftSingular:
    """Decompose B·A (``lora_b`` (d_out, r), ``lora_a`` (r, d_in)) without forming the product."""
    q, rest = torch.linalg.qr(lora_b.double())
    u, sigma = left_singular(rest @ torch.linalg.qr(lora_a.double().mT).R.mT)
    return LeftSingular(q @ u, sigma)


def _orthonormal(columns: Tensor) -> Tensor:
    """Columns orthonormalised in order (their signs kept): dividing by small singular values would lose orthogonality."""
    q, upper = torch.linalg.qr(columns)
    signed: Tensor = q * upper.diagonal().sign()
    return signed
