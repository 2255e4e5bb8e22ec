"""SecondMoment: what the inputs of a layer are like, as a sum or a factor that grows batch by batch."""

import torch
from torch import Tensor

from asft_lightning.functional import LeftSingular, Principal, left_singular, left_singular_of_square


class SecondMoment:
    """G = mean of x xᵀ over the inputs x of a layer. The inputs are not kept, nor is a d × d matrix of a wide layer.

    Of a layer no wider than twice ``capacity``, n·G is summed up in float64, one product a batch, and decomposed at the end
    alone. Of a wider one inputs are added in float32 to a factor F, n·G ≈ FᵀF. When it has twice ``capacity`` rows it is
    turned to its principal axes, and the smallest beyond ``capacity`` are dropped. Each dropping takes away a positive
    semi-definite matrix of at most the largest eigenvalue dropped, so that their sum bounds what is missing (as in Frequent
    Directions, Liberty 2013). A layer narrower than ``capacity`` loses nothing.

    Args:
        width: d.
        capacity: Directions kept, ≥ 1.
    """

    def __init__(self, width: int, capacity: int) -> None:
        self.count = 0
        self._capacity = capacity
        self._is_summed = width <= 2 * capacity
        self._sum = torch.zeros(width if self._is_summed else 0, width, dtype=torch.float64)  # n·G
        self._factor = torch.empty(0, width)
        self._dropped = 0.0  # Σ of the largest eigenvalues dropped, of n·G
        self._lost = 0.0  # Σ of all eigenvalues dropped
        self._square = torch.zeros((), dtype=torch.float64)  # Σ‖x‖²
        self._axes: tuple[LeftSingular, float, float] | None = None  # kept for layers that share the moment

    def add(self, inputs: Tensor) -> None:
        """Count inputs x (n, d)."""
        inputs = inputs.detach().float()
        self.count += len(inputs)
        self._axes = None
        exact = (inputs.cpu() if inputs.is_mps else inputs).double()  # Apple's GPUs have no float64
        self._square = self._square.to(exact.device) + exact.square().sum()
        if self._is_summed:
            self._sum = self._sum.to(exact.device).addmm_(exact.mT, exact)
            return
        for rows in torch.split(inputs, self._capacity):
            self._factor = torch.cat([self._factor.to(rows.device), rows])
            if len(self._factor) > 2 * self._capacity:
                self._turn()

    def principal(self, tolerance: float) -> Principal:
        """The fewest directions outside of which lies at most the share ``tolerance`` of tr G."""
        if self._axes is None:
            self._axes = self._decomposed()
        axes, dropped, lost = self._axes
        squares, total = axes.sigma.square(), float(self._square)
        left = lost + (squares.flip(0).cumsum(0).flip(0) - squares)  # summed from the small end: nothing cancels
        keep = min(len(squares), int((left > tolerance * total).sum()) + 1)
        last = float(squares[keep]) if keep < len(squares) else 0.0
        u, values = axes.u[:, :keep], squares[:keep] / self.count
        return Principal(u, values, (dropped + last) / self.count, total / self.count)

    def _decomposed(self) -> tuple[LeftSingular, float, float]:
        """The principal axes, at most ``capacity`` of them, and what was dropped and lost beyond those in all."""
        if self._is_summed:
            square = left_singular_of_square(self._sum, max(len(self._sum), self.count))
            return _cut(square, self._capacity)
        self._turn()
        return left_singular(self._factor.mT), self._dropped, self._lost

    def _turn(self) -> None:
        """Rows along the principal axes, at most ``capacity`` of them, largest first."""
        axes, dropped, lost = _cut(left_singular(self._factor.mT), self._capacity)
        self._factor = (axes.u * axes.sigma).mT.to(self._factor.dtype)
        self._dropped += dropped
        self._lost += lost


def _cut(axes: LeftSingular, capacity: int) -> tuple[LeftSingular, float, float]:
    """The largest ``capacity``, and of the squares beyond the largest and the sum."""
    beyond = axes.sigma[capacity:].square()
    kept = axes._replace(u=axes.u[:, :capacity], sigma=axes.sigma[:capacity])
    return kept, float(beyond[0]) if len(beyond) else 0.0, float(beyond.sum())
