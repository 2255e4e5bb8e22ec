"""Fisher's linear discriminant of two kinds of vectors, where there are fewer vectors than dimensions."""

import torch
from torch import Tensor


def discriminant(first: Tensor, second: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """W and b such that w·x + b is how far x lies from the mean of ``second`` towards ``first``, in spreads within a kind.

    w is (S + ridge·tr(S)/d·I)⁻¹ (mean of first − mean of second), S the covariance within the kinds, scaled so that w·x has
    a standard deviation of 1 within them. By Woodbury's identity only an n×n system is solved.

    Args:
        first: (n₁, d), floating point.
        second: (n₂, d).
        ridge: > 0.

    Returns:
        w (d,) and b (), of their dtype.
    """
    means = first.mean(0), second.mean(0)
    within = torch.cat([first - means[0], second - means[1]])
    count, width = within.shape
    strength = ridge * within.square().sum() / (count * width)
    apart = means[0] - means[1]
    inner = within @ within.mT / count + strength * torch.eye(count, dtype=within.dtype, device=within.device)
    w = (apart - within.mT @ torch.linalg.solve(inner, within @ apart) / count) / strength
    w = w / (within @ w).square().mean().sqrt()
    return w, -(means[1] @ w)
