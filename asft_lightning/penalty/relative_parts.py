"""RelativeParts: what the relative change of a group of layers is made of, and how it shrinks."""

from typing import NamedTuple

from torch import Tensor

from asft_lightning.functional import without_share


class RelativeParts(NamedTuple):
    """The relative change of a group of layers, taken apart: along each direction of each layer, and along none.

    Attributes:
        eigenvalues: (L, k + 1), what a unit of each part costs; the last is of all that lies along none.
        energies: (L, k + 1), ‖ΔW u‖² of each part, in the norm of the output side.
        a: A (L, r, d_in); of sharded factors this rank's columns.
        along: AU (L, r, k).
        directions: U (L, d_in, k).
    """

    eigenvalues: Tensor
    energies: Tensor
    a: Tensor
    along: Tensor
    directions: Tensor

    def shrunk(self, nu: float) -> Tensor:
        """A with ΔW → ΔW (I + νM)⁻¹."""
        away = nu * self.eigenvalues / (1 + nu * self.eigenvalues)
        return without_share(self.a, self.along, self.directions, away[:, :-1], away[:, -1])
