"""The one object behind every variant of the penalty: a quadratic form on each side of the update B·A.

Shapes: ``L`` layers (any leading batch dimensions, or none), ``d`` the side's width, ``k`` directions, ``r`` LoRA rank.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""A sum over the shards of a side's width; the tensor itself where there is one."""


def whole(tensor: Tensor) -> Tensor:
    """The total where nothing is sharded."""
    return tensor


@dataclass(frozen=True)
class QuadraticForm:
    """M = β(I − UUᵀ) + U diag(w) Uᵀ, never formed. ``None`` stands for the identity wherever a form is expected.

    Args:
        beta: β ≥ 0, the weight of everything outside the span of ``directions``.
        directions: U (..., d, k), orthonormal columns; all-zero columns (padding) change nothing.
        weights: w (..., k), each ≥ 0.
    """

    beta: float
    directions: Tensor
    weights: Tensor

    def applied_and_gram(self, factor: Tensor, total: Total = whole) -> tuple[Tensor, Tensor]:
        """MF (..., d, r) and FᵀMF (..., r, r) of a factor F (..., d, r), the latter as a sum of squares.

        The shorter βFᵀF + Zᵀ diag(w − β) Z cancels when F lies in the span of U, and then falls below zero. Where F and U
        are shards of rows, ``total`` adds up over the shards: (..., k, r) and (..., r, r) are all that travels.
        """
        inside = total(self.directions.mT @ factor)
        weighted = self.weights.unsqueeze(-1) * inside
        applied, gram = self.directions @ weighted, inside.mT @ weighted
        if self.beta:
            outside = factor - self.directions @ inside
            applied, gram = applied + self.beta * outside, gram + self.beta * total(outside.mT @ outside)
        return applied, gram

    def powered(self, matrix: Tensor, inside: Tensor, power: float) -> Tensor:
        """M^power F (..., d, n) of a wide matrix F (..., d, n) and its UᵀF (..., k, n): its shards' rows where it is one."""
        outside: float = self.beta**power
        found = self.directions @ ((self.weights**power - outside).unsqueeze(-1) * inside)
        return found.add_(matrix, alpha=outside)  # in place: wide matrices are large

    def to(self, dtype: torch.dtype) -> "QuadraticForm":
        """The same form in another dtype."""
        return QuadraticForm(self.beta, self.directions.to(dtype), self.weights.to(dtype))

    def cpu(self) -> "QuadraticForm":
        """The same form on the CPU."""
        return QuadraticForm(self.beta, self.directions.cpu(), self.weights.cpu())

    def dense(self) -> Tensor:
        """M as a (..., d, d) matrix: for tests and plots only."""
        u = self.directions
        identity = torch.eye(u.shape[-2], dtype=u.dtype, device=u.device)
        return self.beta * (identity - u @ u.mT) + u @ (self.weights.unsqueeze(-1) * u.mT)


def applied_and_gram(factor: Tensor, form: QuadraticForm | None, total: Total = whole) -> tuple[Tensor, Tensor]:
    """MF (..., d, r) and FᵀMF (..., r, r) of a factor F (..., d, r), or of its shards; M = I where ``form`` is None."""
    return (factor, total(factor.mT @ factor)) if form is None else form.applied_and_gram(factor, total)
