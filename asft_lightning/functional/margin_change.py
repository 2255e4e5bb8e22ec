"""How far an update changes the margins of an answer, as a form on both sides: the mathematics of two-sided ``Activation``.

``d_out, d_in`` is the shape of one weight, whose inputs are x and whose outputs the margins depend on by gradients g.
"""

from typing import NamedTuple

from asft_lightning.functional.alignment import Spectrum
from asft_lightning.functional.principal import Principal
from asft_lightning.functional.quadratic_form import QuadraticForm
from asft_lightning.functional.relative_change import require_inputs


class MarginChange(NamedTuple):
    """q = tr(M_out ΔW M_in ΔWᵀ) of an update ΔW = B·A, as scale·⟨Bᵀ out B, A inp Aᵀ⟩.

    Attributes:
        out: M_out up to its unit, float32, with β 0 or 1.
        inp: M_in likewise.
        scale: What the forms are multiplied with, both units.
        spectrum: Figures of the inputs.
    """

    out: QuadraticForm
    inp: QuadraticForm
    scale: float
    spectrum: Spectrum


def margin_change(gradients: Principal, inputs: Principal, output_ridge: float, ridge: float = 0.0) -> MarginChange:
    """The form of q, with M_out = (1 − ρ)·S + ρ·tr(S)/d_out·I and M_in = G + ridge·tr(G)/d_in·I; S = E[g gᵀ], G = E[x xᵀ].

    At ρ = 0 and ridge 0 it is the mean of (gᵀ ΔW x)² over all pairs of a g and an x. What is left out of S or G counts as
    the most that there may be of it along each direction: q is never below the exact one.

    Args:
        gradients: Of g, (d_out, ·).
        inputs: Of x, (d_in, ·).
        output_ridge: ρ, from 0 to 1.
        ridge: Also count white noise in the inputs, of this share of their energy, ≥ 0.

    Raises:
        ValueError: If the inputs are all 0, or the gradients.
    """
    require_inputs(inputs)
    if not gradients.trace > 0:
        raise ValueError(
            "the first answer tokens must depend on what the layer puts out, and their margins' gradients are all 0."
        )
    d_out, d_in = len(gradients.directions), len(inputs.directions)
    out, out_unit = gradients.form(output_ridge * gradients.trace / d_out, 1 - output_ridge)
    inp, inp_unit = inputs.form(ridge * inputs.trace / d_in)
    return MarginChange(out, inp, out_unit * inp_unit, inputs.spectrum())
