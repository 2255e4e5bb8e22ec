"""Left singular vectors of a matrix: all of them where it is small, else the leading ones with a checked remainder."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EXACT_UP_TO = 1024
"""Smaller side up to which a matrix is decomposed whole, in float64: seconds, and no iteration to be checked."""
_FIRST_WIDTH = 64
_SWEEPS = 4
_BLOCK = 512


class LeftSingular(NamedTuple):
    """Left singular vectors and what is known about the rest of the matrix V (d_out, d_in).

    Attributes:
        u: U (d_out, n), orthonormal columns.
        sigma: singular values (n,), largest first, all of them non-zero.
        leak: ‖(I − UUᵀ)VVᵀu_i‖ (n,), by how much each column fails to be an eigenvector of VVᵀ; 0 where exact.
        rest: bound on the largest singular value of (I − UUᵀ)V; 0 where nothing is left.
    """

    u: Tensor
    sigma: Tensor
    leak: Tensor
    rest: float = 0.0


def working_dtype(shape: tuple[int, int]) -> torch.dtype:
    """What a matrix of this shape is decomposed in: float64, or float32 where it is large."""
    return torch.float64 if min(shape) <= EXACT_UP_TO else torch.float32


def left_singular(matrix: Tensor) -> LeftSingular:
    """Decompose ``matrix`` (d_out, d_in) by the eigenvectors of its smaller Gram matrix.

    Eigenvalues below float64's noise on the largest one are no directions of the matrix, and are left out; so n is the
    numerical rank.

    Returns:
        float64 factors, orthonormal to rounding.
    """
    v = matrix.double()
    wide = v.shape[0] <= v.shape[1]
    found = left_singular_of_square(v @ v.mT if wide else v.mT @ v, max(v.shape))
    return found if wide else found._replace(u=_orthonormal(v @ found.u))


def left_singular_of_square(square: Tensor, longest: int | None = None) -> LeftSingular:
    """Decompose a matrix V by its Gram matrix VVᵀ (d, d) alone, in float64, as :func:`left_singular` does.

    Args:
        square: VVᵀ.
        longest: The longer side of V; None for d.
    """
    values, vectors = torch.linalg.eigh(square)
    values, vectors = values.flip(0), vectors.flip(1)
    sides = len(square) if longest is None else longest
    noise = 16 * sides * torch.finfo(torch.float64).eps * values[:1].clamp_min(0.0)  # an empty matrix has none
    rank = int((values > noise).sum())
    sigma = values[:rank].sqrt()
    return LeftSingular(vectors[:, :rank], sigma, torch.zeros_like(sigma))


def leading_left_singular(
    matrix: Tensor, ceiling: Callable[[Tensor], float], accept: Callable[[LeftSingular], bool] = lambda _: True
) -> LeftSingular:
    """The leading part of the decomposition: enough directions that no singular value above the ceiling is left out.

    Block subspace iteration from a fixed seed proposes U; nothing of it is believed: ``rest`` is checked by a Cholesky
    factorisation of rest²·I − RRᵀ, which exists only if every singular value of the remainder R = (I − UUᵀ)V lies
    below, and ``leak`` is measured. Small matrices, and those that need half of their directions, are decomposed whole.

    Memory beside ``matrix``, which serves as workspace: one Gram matrix of its smaller side, and the factors.

    Args:
        matrix: V (d_out, d_in); float32 where it is large. Its values are as before on return, to rounding.
        ceiling: from the singular values found so far (n,) to the largest that may be left out.
        accept: whether the result is exact enough; else it is iterated on.

    Returns:
        Factors in the matrix's dtype, on its device.
    """
    side = min(matrix.shape)
    if side <= EXACT_UP_TO:
        return left_singular(matrix)
    generator = torch.Generator().manual_seed(0)
    basis, width = matrix.new_empty(matrix.shape[0], 0), _FIRST_WIDTH
    while width <= side // 2:
        fresh = torch.randn(matrix.shape[1], width - basis.shape[1], generator=generator).to(matrix)
        basis = _swept(matrix, torch.cat([basis, matrix @ fresh], 1))
        if ritz_pairs := _checked(matrix, basis, ceiling, accept):
            return ritz_pairs
        width *= 2
    return left_singular(matrix)


def low_rank_left_singular(lora_a: Tensor, lora_b: Tensor) -> LeftSingular:
    """Decompose B·A (``lora_b`` (d_out, r), ``lora_a`` (r, d_in)) without forming the product."""
    q, rest = torch.linalg.qr(lora_b.double())
    u, sigma, leak, _ = left_singular(rest @ torch.linalg.qr(lora_a.double().mT).R.mT)
    return LeftSingular(q @ u, sigma, leak)


def _swept(matrix: Tensor, columns: Tensor) -> Tensor:
    """Columns turned towards the leading left singular vectors, orthonormal (Halko, Martinsson and Tropp 2011, 4.4)."""
    for _ in range(_SWEEPS):
        columns = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ columns).Q).Q
    return columns


def _checked(
    matrix: Tensor, basis: Tensor, ceiling: Callable[[Tensor], float], accept: Callable[[LeftSingular], bool]
) -> LeftSingular | None:
    """The Ritz pairs of ``basis``, or None where they do not pass; the costly check, of the remainder, comes last."""
    inside = basis.mT @ matrix
    rotation, sigma, _ = torch.linalg.svd(inside, full_matrices=False)
    top = ceiling(sigma)
    if float(sigma[-1]) >= top:
        return None
    matrix.addmm_(basis, inside, alpha=-1)  # now the remainder R
    try:
        leak = torch.linalg.vector_norm(matrix @ (inside.mT @ rotation), dim=0)
        ritz_pairs = LeftSingular(basis @ rotation, sigma, leak, top)
        return ritz_pairs if accept(ritz_pairs) and _all_below(matrix, top) else None
    finally:
        matrix.addmm_(basis, inside)


def _all_below(remainder: Tensor, top: float) -> bool:
    """Whether every singular value of ``remainder`` lies below ``top``; a percent is kept for float32's rounding."""
    gram = _upper_gram(remainder if remainder.shape[0] <= remainder.shape[1] else remainder.mT).neg_()
    gram.diagonal().add_(0.99 * top**2)
    lower = gram.mT  # the same matrix, as LAPACK stores it: factorised in place, without a copy
    info = torch.empty((), dtype=torch.int32, device=gram.device)
    torch.linalg.cholesky_ex(lower, out=(lower, info))
    return int(info) == 0


def _upper_gram(rows: Tensor) -> Tensor:
    """The upper triangle of RRᵀ, 0 below its blocks: half the work, and all that a Cholesky factorisation reads."""
    gram = rows.new_zeros(len(rows), len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        torch.mm(rows[block], rows[start:].mT, out=gram[block, start:])
    return gram


def _orthonormal(columns: Tensor) -> Tensor:
    """Columns orthonormalised in order (their signs kept): dividing by small singular values would lose orthogonality."""
    q, upper = torch.linalg.qr(columns)
    signed: Tensor = q * upper.diagonal().sign()
    return signed
