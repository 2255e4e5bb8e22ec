"""An update that exists, against anchors: how much of it is aligned, how much orthogonal, and what it would cost."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from asft_lightning.anchors.anchor import ModuleAnchor
from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.functional import split_factor, update_penalty
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


@dataclass(frozen=True)
class Comparison:
    """An adapter against anchors.

    Args:
        parts: For each (module, anchor's class).
        unanchored: Layers of the adapter that have no anchor.
    """

    parts: Mapping[tuple[str, str], UpdateParts]
    unanchored: tuple[str, ...]

    def total(self, label: str) -> UpdateParts:
        """The sums over all modules, for one anchor."""
        chosen = [parts for (_, own), parts in self.parts.items() if own == label]
        return UpdateParts(*(sum(getattr(p, field.name) for p in chosen) for field in fields(UpdateParts)))

    def __str__(self) -> str:
        """A table of plain text, with the sums at its end."""
        width, wide = (max(9, *map(len, names)) for names in zip(*self.parts, strict=True))
        lines = [f"{'module':{width}}  {'anchor':{wide}}      ‖BA‖²  aligned  orthogonal     penalty"]
        lines += [f"{module:{width}}  {label:{wide}}  {_figures(parts)}" for (module, label), parts in self.parts.items()]
        for label in dict.fromkeys(label for _, label in self.parts):
            lines.append(f"{'all':{width}}  {label:{wide}}  {_figures(self.total(label))}")
        lines += ["", "aligned, orthogonal: ‖C·BA‖² and ‖(I − C)·BA‖² as shares of ‖BA‖²; BA without LoRA's α/r."]
        if any(label.startswith("Harmful") for _, label in self.parts):
            lines.append("Of Harmful, C maps onto the harmful directions: what stands under aligned is the harmful part.")
        if any(label.startswith("Activation") for _, label in self.parts):
            lines.append("Of Activation, the penalty is the relative change of (α/r)·BA: its root over all is the drift.")
        if self.unanchored:
            lines.append(f"{len(self.unanchored)} layers of the adapter have no anchor, e.g. {self.unanchored[0]}.")
        return "\n".join(lines)


def compare(anchors: AnchorSet, adapter: str | Path) -> Comparison:
    """Measure an adapter in PEFT's format against anchors.

    Args:
        anchors: The anchors.
        adapter: Its folder or hub id.

    Raises:
        AnchorError: If the adapter lacks a module of the anchors, or does not fit it.
        ConfigurationError: If it cannot be read.
    """
    weights, parts = open_weights(adapter), {}
    labels = term_labels(anchors)
    # Only what is measured on the true update needs to know α: a file of bare factors will do for the rest.
    config = load_config(adapter) if any(term.relative for term in anchors.terms) else None
    for name, shape in anchors.shapes.items():
        a, b = (factor.double() for factor in read_factors(weights, Target(name, shape)))
        for label, term in zip(labels, anchors.terms, strict=True):
            scaling = update_scaling(config, name, len(a)) if config is not None else 1.0
            parts[name, label] = update_parts(term.modules[name], term.weight, a, b, scaling)
    layers = [name.removesuffix(".lora_A.weight") for name in weights.names if name.endswith(".lora_A.weight")]
    return Comparison(parts, tuple(name for name in layers if name not in anchors.shapes))


def term_labels(anchors: AnchorSet) -> list[str]:
    """A name of its own for each anchor of a set: its class, with a number where one comes twice."""
    several = len({term.label for term in anchors.terms}) < len(anchors.terms)
    return [f"{term.label} {i}" if several else term.label for i, term in enumerate(anchors.terms)]


def update_parts(anchor: ModuleAnchor, weight: float, a: Tensor, b: Tensor, scaling: float) -> UpdateParts:
    """One update against one anchor, from its float64 factors A (r, d_in) and B (d_out, r) and its α/r."""
    aligned, orthogonal = torch.zeros_like(b), b
    if anchor.out is not None and anchor.eigenvalues is not None:
        aligned, orthogonal = split_factor(b, anchor.out.directions.double(), anchor.eigenvalues.double())
    out, inp = (form if form is None else form.to(torch.float64) for form in (anchor.out, anchor.inp))
    penalty = weight * anchor.factor(scaling) * update_penalty(a, b, out, inp)
    return UpdateParts(
        *(float(value) for value in (*(update_penalty(a, part) for part in (b, aligned, orthogonal)), penalty))
    )


def _figures(parts: UpdateParts) -> str:
    shares = [part / parts.size if parts.size else 0.0 for part in (parts.aligned, parts.orthogonal)]
    return f"{parts.size:9.3g}  {shares[0]:7.1%}  {shares[1]:10.1%}  {parts.penalty:10.3g}"
