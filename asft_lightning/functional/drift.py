"""The nearest update within a limit on a weighted sum of squares: what a drift budget projects onto."""

from torch import Tensor

_ITERATIONS = 100
_CLOSE_ENOUGH = 1e-12


def budget_multiplier(eigenvalues: Tensor, energies: Tensor, limit: float) -> float:
    """The smallest ν ≥ 0 at which Σ_i e_i c_i / (1 + ν e_i)² is at most ``limit``.

    It is the multiplier of: minimise ‖ΔW' − ΔW‖²_F where ΔW' costs at most ``limit``. There each part of ΔW along an
    eigenvector of the cost shrinks to 1/(1 + ν e_i) of itself. Found by Newton's method on the secular equation
    limit^−½ = f(ν)^−½ (Moré and Sorensen 1983), whose right side is concave: from ν = 0 it comes down to the root from no
    side but one.

    Args:
        eigenvalues: e (n,) ≥ 0, the cost of each part.
        energies: c (n,) ≥ 0, the square of each part's size.
        limit: > 0.

    Returns:
        ν; the sum there is within 1e-12 of ``limit`` relatively, or ν is 0 where the sum is below it anyway.
    """
    e, c = eigenvalues.double(), energies.double()
    nu = 0.0
    for _ in range(_ITERATIONS):
        shrunk = 1 / (1 + nu * e)
        cost = e * c * shrunk.square()
        f = float(cost.sum())
        if f <= limit * (1 + _CLOSE_ENOUGH):
            return nu
        slope = float((cost * e * shrunk).sum())  # −f'(ν)/2
        nu += f * ((f / limit) ** 0.5 - 1) / slope
    return nu


def without_share(rows: Tensor, along: Tensor, directions: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Take a share of ``rows`` away: ``inside`` of what lies along each direction, ``outside`` of the rest.

    Args:
        rows: A (L, r, d).
        along: AU (L, r, k).
        directions: U (L, d, k), orthonormal columns.
        inside: Share (L, k) in [0, 1].
        outside: Share (L,) in [0, 1].

    Returns:
        A − A(U diag(inside) Uᵀ + outside·(I − UUᵀ)), (L, r, d).
    """
    kept = (1 - outside)[:, None, None] * rows
    return kept - (along * (inside - outside[:, None]).unsqueeze(-2)) @ directions.mT
