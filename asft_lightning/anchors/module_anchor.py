"""ModuleAnchor: what became of a variant, for one matrix."""

from dataclasses import dataclass, field

from torch import Tensor

from asft_lightning.functional import AlignmentMap, QuadraticForm, Spectrum


@dataclass(frozen=True)
class ModuleAnchor:
    """The anchor of one matrix: a form a side (None is the identity) and the spectrum of its map.

    Args:
        out: M_out (d_out side).
        inp: M_in (d_in side).
        eigenvalues: c (k,) of C on ``out.directions``; None where there is no map.
        spectrum: Figures of the map, for people.
        scale: What the forms' penalty is multiplied with.
        relative: Whether that is a change relative to what the aligned model does: of the true update (α/r)·B·A, always.
    """

    out: QuadraticForm | None = None
    inp: QuadraticForm | None = None
    eigenvalues: Tensor | None = None
    spectrum: Spectrum = field(default_factory=Spectrum)
    scale: float = 1.0
    relative: bool = False

    def factor(self, scaling: float, scale_update: bool = False) -> float:
        """What the penalty of the bare B·A under the forms is multiplied with.

        Args:
            scaling: α/r.
            scale_update: Mean the true update also where the anchor means the bare one.
        """
        return self.scale * (scaling**2 if self.relative or scale_update else 1.0)

    @classmethod
    def of_map(cls, found: AlignmentMap) -> "ModuleAnchor":
        """The anchor of a map onto output directions, on the CPU, wherever it was computed."""
        form = found.form.cpu()
        return cls(out=form, eigenvalues=found.eigenvalues.cpu(), spectrum=found.spectrum)

    @property
    def num_bytes(self) -> int:
        """What the anchor takes in memory and on disk."""
        tensors = [t for form in (self.out, self.inp) if form is not None for t in (form.directions, form.weights)]
        return sum(t.numel() * t.element_size() for t in tensors)
