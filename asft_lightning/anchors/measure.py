"""An update that exists, against anchors: how much of it is aligned, how much orthogonal, and what it would cost."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.anchors.term import term_labels
from asft_lightning.functional import split_factor, update_penalty
from asft_lightning.runtime.tables import as_text
from asft_lightning.weights.adapter_factors import load_config, read_factors, update_scaling
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.targets import Target


@dataclass(frozen=True)
class UpdateParts:
    """One update B·A against the map C of one anchor; all squares of Frobenius norms, of the bare B·A.

    Args:
        size: ‖BA‖²: what Shrinkage would count.
        aligned: ‖C·BA‖².
        orthogonal: ‖(I − C)·BA‖². With a C that is no projector the two need not sum to ``size``.
        penalty: The anchor's penalty, with its weight.
    """

    size: float
    aligned: float
    orthogonal: float
    penalty: float

    @property
    def shares(self) -> tuple[float, float]:
        """The aligned and the orthogonal part of ``size``; 0 of an update of 0."""
        return (self.aligned / self.size, self.orthogonal / self.size) if self.size else (0.0, 0.0)


@dataclass(frozen=True)
class AdapterMeasurement:
    """An adapter against anchors.

    Args:
        parts: For each (module, anchor's class).
        unanchored: Layers of the adapter that have no anchor.
    """

    parts: Mapping[tuple[str, str], UpdateParts]
    unanchored: tuple[str, ...]

    def total(self, label: str) -> UpdateParts:
        """The sums over all modules, for one anchor."""
        of_anchor = [parts for (_, anchor), parts in self.parts.items() if anchor == label]
        return UpdateParts(*(sum(getattr(parts, field.name) for parts in of_anchor) for field in fields(UpdateParts)))

    def __str__(self) -> str:
        """A table of plain text, with the sums at its end."""
        labels = list(dict.fromkeys(label for _, label in self.parts))
        measured = {**self.parts, **{("all", label): self.total(label) for label in labels}}
        headings = ["module", "anchor", "‖BA‖²", "aligned", "orthogonal", "penalty"]
        lines = [as_text(headings, [[*where, *_figures(parts)] for where, parts in measured.items()], texts=2)]
        lines += ["", "aligned, orthogonal: ‖C·BA‖² and ‖(I − C)·BA‖² as shares of ‖BA‖²; BA without LoRA's α/r."]
        if any(label.startswith("Harmful") for label in labels):
            lines.append("Of Harmful, C maps onto the harmful directions: what stands under aligned is the harmful part.")
        if any(label.startswith("Activation") for label in labels):
            lines.append("Of Activation, the penalty is of the true update (α/r)·BA: its root over all is the drift.")
        if self.unanchored:
            lines.append(f"{len(self.unanchored)} layers of the adapter have no anchor, e.g. {self.unanchored[0]}.")
        return "\n".join(lines)


def measure_adapter(anchors: AnchorSet, adapter: str | Path) -> AdapterMeasurement:
    """Measure an adapter in PEFT's format against anchors.

    Args:
        anchors: The anchors.
        adapter: Its folder or hub id.

    Raises:
        AnchorError: If the adapter lacks a module of the anchors, or does not fit it.
        ConfigurationError: If it cannot be read.
    """
    weights, parts = open_weights(adapter), {}
    labels = term_labels(anchors.terms)
    # Only what is measured on the true update needs to know α: a file of bare factors will do for the rest.
    config = load_config(adapter) if any(term.relative for term in anchors.terms) else None
    for name, shape in anchors.shapes.items():
        a, b = (factor.double() for factor in read_factors(weights, Target(name, shape)))
        for label, term in zip(labels, anchors.terms, strict=True):
            scaling = update_scaling(config, name, len(a)) if config is not None else 1.0
            parts[name, label] = update_parts(term.modules[name], term.weight, a, b, scaling)
    layers = [name.removesuffix(".lora_A.weight") for name in weights.names if name.endswith(".lora_A.weight")]
    return AdapterMeasurement(parts, tuple(name for name in layers if name not in anchors.shapes))


def update_parts(anchor: ModuleAnchor, weight: float, a: Tensor, b: Tensor, scaling: float) -> UpdateParts:
    """One update against one anchor, from its float64 factors A (r, d_in) and B (d_out, r) and its α/r."""
    aligned, orthogonal = torch.zeros_like(b), b
    if anchor.out is not None and anchor.eigenvalues is not None:
        aligned, orthogonal = split_factor(b, anchor.out.directions.double(), anchor.eigenvalues.double())
    out, inp = (form if form is None else form.to(torch.float64) for form in (anchor.out, anchor.inp))
    penalty = weight * anchor.factor(scaling) * update_penalty(a, b, out, inp)
    squares = [update_penalty(a, part) for part in (b, aligned, orthogonal)]
    return UpdateParts(*(float(value) for value in (*squares, penalty)))


def _figures(parts: UpdateParts) -> list[str]:
    aligned, orthogonal = parts.shares
    return [f"{parts.size:.3g}", f"{aligned:.1%}", f"{orthogonal:.1%}", f"{parts.penalty:.3g}"]
