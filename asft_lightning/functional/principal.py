"""Principal: the leading part of a second moment, and the form it makes."""

from typing import NamedTuple

from torch import Tensor

from asft_lightning.functional.alignment import Spectrum
from asft_lightning.functional.quadratic_form import QuadraticForm


class Principal(NamedTuple):
    """The leading part of a second moment G = E[x xᵀ] (d, d).

    Attributes:
        directions: U (d, k), orthonormal, float64.
        values: g (k,), eigenvalues of G along them, largest first.
        bound: 0 ⪯ G − U diag(g) Uᵀ ⪯ bound·I.
        trace: tr G, the mean of ‖x‖².
    """

    directions: Tensor
    values: Tensor
    bound: float
    trace: float

    def form(self, noise: float, share: float = 1.0) -> tuple[QuadraticForm, float]:
        """M and a unit, with unit·M = share·(U diag(g) Uᵀ + bound·I) + noise·I, which is never below share·G + noise·I.

        Args:
            noise: ≥ 0, along every direction alike.
            share: Of G, from 0 to 1.

        Returns:
            The float32 form, and what it is multiplied with: β is 0 or 1, so that layers go through one product.
        """
        floor = share * self.bound + noise
        values = share * self.values + floor
        unit = floor or float(values[0])
        return QuadraticForm(1.0 if floor else 0.0, self.directions.float(), (values / unit).float()), unit

    def spectrum(self) -> Spectrum:
        """Figures of G: ``norm`` is the root mean square of ‖x‖, and ``largest`` a share of all energy."""
        return Spectrum(
            norm=self.trace**0.5,
            largest=float(self.values[0]) / self.trace,
            kept=len(self.values),
            energy=float(self.values.sum()) / self.trace,
            error_bound=self.bound / self.trace,
        )
