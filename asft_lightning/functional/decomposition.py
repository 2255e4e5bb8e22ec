"""Left singular vectors of a matrix: all of them where it is small, else the leading ones with a checked remainder."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

EXACT_UP_TO = 1024
"""Smaller side up to which a matrix is decomposed whole, in float64: seconds, and no iteration to be checked."""
_BLOCK_WIDTH = 64
_CHECKED_AGAIN = 1.5
"""How many times larger the space is when it is looked at again."""
_UNDER_CEILING = 0.95
"""Directions are kept down to this share of the ceiling, so that what is left lies clearly below."""
_PRODUCT_BLOCK = 512


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

    A block Krylov space from a fixed seed (Musco and Musco 2015) proposes U; nothing of it is believed: ``leak`` is
    measured, and ``rest`` is checked by a Cholesky factorisation of rest²·I − RRᵀ, which exists only if every singular
    value of the remainder R = (I − UUᵀ)V lies below. Small matrices, and those that need half of their directions, are
    decomposed whole.

    Memory beside ``matrix``, which serves as workspace: one Gram matrix of its smaller side, and the factors.

    Args:
        matrix: V (d_out, d_in); float32 where it is large. Its values are as before on return, to rounding.
        ceiling: from the singular values found so far (n,) to the largest that may be left out.
        accept: whether the result is exact enough; else the space grows.

    Returns:
        Factors in the matrix's dtype, on its device.
    """
    side = min(matrix.shape)
    if side <= EXACT_UP_TO:
        return left_singular(matrix)
    next_check = 2 * _BLOCK_WIDTH
    for basis, inside in _krylov(matrix):
        if len(inside) > side // 2:
            break
        if len(inside) >= next_check:
            if ritz_pairs := _checked(matrix, basis, inside, ceiling, accept):
                return ritz_pairs
            next_check = int(_CHECKED_AGAIN * next_check)
    return left_singular(matrix)


def low_rank_left_singular(lora_a: Tensor, lora_b: Tensor) -> LeftSingular:
    """Decompose B·A (``lora_b`` (d_out, r), ``lora_a`` (r, d_in)) without forming the product."""
    q, rest = torch.linalg.qr(lora_b.double())
    u, sigma, leak, _ = left_singular(rest @ torch.linalg.qr(lora_a.double().mT).R.mT)
    return LeftSingular(q @ u, sigma, leak)


def _krylov(matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Orthonormal Q (d_out, n) of growing n, for the space of VΩ, (VVᵀ)VΩ, (VVᵀ)²VΩ, …, and QᵀV."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], _BLOCK_WIDTH, dtype=torch.float32, generator=generator)
    block = torch.linalg.qr(matrix @ start.to(matrix)).Q
    basis, inside = matrix.new_empty(matrix.shape[0], 0), matrix.new_empty(0, matrix.shape[1])
    while True:
        basis, inside = torch.cat([basis, block], 1), torch.cat([inside, block.mT @ matrix])
        yield basis, inside
        block = matrix @ inside[-_BLOCK_WIDTH:].mT
        for _ in range(2):  # once leaves rounding behind
            block = torch.linalg.qr(block - basis @ (basis.mT @ block)).Q


def _checked(
    matrix: Tensor,
    basis: Tensor,
    inside: Tensor,
    ceiling: Callable[[Tensor], float],
    accept: Callable[[LeftSingular], bool],
) -> LeftSingular | None:
    """The leading Ritz pairs of ``basis``, or None where they do not pass; the costly check, of the remainder, comes last.

    The space holds more directions than are near their place: those below the ceiling are left to the remainder.
    """
    rotation, sigma, right = torch.linalg.svd(inside, full_matrices=False)
    top = ceiling(sigma)
    if float(sigma[-1]) >= top:
        return None
    leading = max(1, int((sigma >= _UNDER_CEILING * top).sum()))  # the largest is asked for whatever the ceiling
    u, sigma = basis @ rotation[:, :leading], sigma[:leading]
    turned = matrix @ (right[:leading].mT * sigma)  # VVᵀU
    leak = torch.linalg.vector_norm(turned - u @ (u.mT @ turned), dim=0)
    ritz_pairs = LeftSingular(u, sigma, leak, top)
    return ritz_pairs if accept(ritz_pairs) and _remainder_is_below(matrix, u, top) else None


def _remainder_is_below(matrix: Tensor, u: Tensor, top: float) -> bool:
    """Whether every singular value of (I − UUᵀ)V lies below ``top``; V is changed on the way, and put back."""
    inside = u.mT @ matrix
    matrix.addmm_(u, inside, alpha=-1)
    try:
        return _all_below(matrix, top)
    finally:
        matrix.addmm_(u, inside)


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
    for start in range(0, len(rows), _PRODUCT_BLOCK):
        block = slice(start, start + _PRODUCT_BLOCK)
        torch.mm(rows[block], rows[start:].mT, out=gram[block, start:])
    return gram


def _orthonormal(columns: Tensor) -> Tensor:
    """Columns orthonormalised in order (their signs kept): dividing by small singular values would lose orthogonality."""
    q, upper = torch.linalg.qr(columns)
    signed: Tensor = q * upper.diagonal().sign()
    return signed
