"""How far an update changes what a layer puts out, as a form on the input side: the mathematics of ``Activation``.

``d_out, d_in`` is the shape of one weight W, ``k`` the number of directions kept of its inputs x.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from asft_lightning.functional.alignment import Spectrum
from asft_lightning.functional.principal import Principal
from asft_lightning.functional.quadratic_form import QuadraticForm

_ROWS = 256


class RelativeChange(NamedTuple):
    """ε² = E‖ΔW x‖² / E‖W x‖² of an update ΔW = B·A, as scale·⟨BᵀB, A M Aᵀ⟩.

    Attributes:
        form: M, float32, with β 0 or 1.
        scale: What the form is multiplied with.
        spectrum: Figures of G: ``norm`` is the root mean square of ‖x‖, and ``largest`` a share of all energy.
    """

    form: QuadraticForm
    scale: float
    spectrum: Spectrum


def relative_change(weight: Tensor, moment: Principal, ridge: float = 0.0) -> RelativeChange:
    """The form of ε², never below the exact one.

    Along no direction but those kept is there more than b = ``moment.bound``, and what is left out counts as b in ΔW x and
    as nothing in W x: ε² is at most (E‖ΔW x‖² + b‖ΔW‖²) / (E‖W x‖² − b‖W‖²).

    Args:
        weight: W (d_out, d_in), on any device, in any dtype.
        moment: What the layer's inputs are like.
        ridge: Also count white noise in the inputs, of this share of their energy, ≥ 0.

    Raises:
        ValueError: If the inputs are all 0, or the layer puts nothing out.
    """
    require_inputs(moment)
    noise = ridge * moment.trace / weight.shape[1]
    put_out = _energy_put_out(weight, moment.directions, moment.values + noise, noise)
    if not put_out > 0:
        raise ValueError("a change is measured against what the layer puts out, and its weight is 0.")
    form, unit = moment.form(noise)
    return RelativeChange(form, unit / put_out, moment.spectrum())


def require_inputs(moment: Principal) -> None:
    """Refuse a layer that nothing is put into.

    Raises:
        ValueError: If its inputs are all 0.
    """
    if not moment.trace > 0:
        raise ValueError("unsafe prompts must put something into the layer, and its inputs are all 0.")


def _energy_put_out(weight: Tensor, directions: Tensor, values: Tensor, floor: float) -> float:
    """tr(W M Wᵀ) with M = floor·(I − UUᵀ) + U diag(values) Uᵀ."""
    along = torch.stack([(rows.double() @ directions).square().sum(0) for rows in torch.split(weight, _ROWS)]).sum(0)
    outside = float(torch.linalg.vector_norm(weight.float(), dtype=torch.float64) ** 2 - along.sum())
    return float((values * along).sum()) + floor * max(0.0, outside)
