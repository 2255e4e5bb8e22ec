"""SecondMoment: what the inputs of a layer are like, as a factor that grows batch by batch."""

import torch
from torch import Tensor

from asft_lightning.functional import Principal, left_singular


class SecondMoment:
    """G = mean of x xᵀ over the inputs x of a layer. Neither the inputs nor a d × d matrix are kept.

    Inputs are added in float32 to a factor F, n·G ≈ FᵀF. When it has twice ``capacity`` rows it is turned to its principal
    axes, and the smallest beyond ``capacity`` are dropped. Each dropping takes away a positive semi-definite matrix of at
    most the largest eigenvalue dropped, so that their sum bounds what is missing (as in Frequent Directions, Liberty 2013).
    A layer narrower than ``capacity`` loses nothing.

    Args:
        width: d.
        capacity: Directions kept, ≥ 1.
    """

    def __init__(self, width: int, capacity: int) -> None:
        self.count = 0
        self._capacity = capacity
        self._factor = torch.empty(0, width)
        self._dropped = 0.0  # Σ of the largest eigenvalues dropped, of n·G
        self._lost = 0.0  # Σ of all eigenvalues dropped
        self._square = 0.0  # Σ‖x‖²

    def add(self, inputs: Tensor) -> None:
        """Count inputs x (n, d)."""
        self.count += len(inputs)
        self._square += float(inputs.detach().float().square().sum(dim=1).cpu().double().sum())
        for rows in torch.split(inputs.detach().float(), self._capacity):
            self._factor = torch.cat([self._factor.to(rows.device), rows])
            if len(self._factor) > 2 * self._capacity:
                self._turn()

    def principal(self, tolerance: float) -> Principal:
        """The fewest directions outside of which lies at most the share ``tolerance`` of tr G."""
        self._turn()
        squares = self._factor.double().square().sum(dim=1)  # the rows are orthogonal now
        total = self._square
        left = self._lost + (squares.flip(0).cumsum(0).flip(0) - squares)  # summed from the small end: nothing cancels
        keep = min(len(squares), int((left > tolerance * total).sum()) + 1)
        axes = left_singular(self._factor[:keep].mT)
        keep = axes.u.shape[1]
        last = float(squares[keep]) if keep < len(squares) else 0.0
        return Principal(axes.u, axes.sigma.square() / self.count, (self._dropped + last) / self.count, total / self.count)

    def _turn(self) -> None:
        """Rows along the principal axes, at most ``capacity`` of them, largest first."""
        axes = left_singular(self._factor.mT)
        self._factor = (axes.u * axes.sigma).mT.to(self._factor.dtype)
        if len(self._factor) > self._capacity:
            beyond = axes.sigma[self._capacity :].square()
            self._dropped += float(beyond[0])
            self._lost += float(beyond.sum())
            self._factor = self._factor[: self._capacity]
