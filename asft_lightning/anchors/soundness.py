"""What anchors from a file must be, for the penalty to be the one that was asked for and never below zero."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.functional import QuadraticForm
from asft_lightning.runtime.reading import is_finite

_LEAST = 1e-20
"""Of what a penalty is multiplied with: in float32 the product of less may be 0."""
_ORTHONORMAL_WITHIN = 1e-3
"""Of UᵀU to I in any entry: float32 decompositions of 4096 columns stay below 1e-5."""


def require_sound(shapes: Mapping[str, tuple[int, int]], terms: Sequence[AnchorTerm]) -> None:
    """Refuse what would not protect, or not as it says.

    Args:
        shapes: {canonical module name: (d_out, d_in)}.
        terms: The anchors of the sum.

    Raises:
        ValueError: If there is nothing in the sum, or something in it breaks a rule; names the module and the rule.
    """
    if not shapes or not terms:
        raise ValueError(f"anchors need a module and a term at least, and there are {len(shapes)} and {len(terms)}")
    for term in terms:
        _require_named(term)
        _require(_LEAST <= term.weight < math.inf, f"{term.label}: a weight must be a positive number, got {term.weight}")
        own = term.settings.get("weight", term.weight)
        _require(own == term.weight, f"{term.label}: the weight must be that of its settings, {own}, got {term.weight}")
        _require(term.modules.keys() == shapes.keys(), f"{term.label}: every module needs its anchor, and no other has one")
        for name, anchor in term.modules.items():
            try:
                _require_sound_module(anchor, shapes[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


def _require_named(term: AnchorTerm) -> None:
    has_class = isinstance(term.settings, Mapping) and isinstance(term.settings.get("class"), str)
    _require(has_class, "the settings of a term must name its class")
    _require(all(isinstance(prompt, str) for prompt in term.prompts), f"{term.label}: hashes of prompts must be text")


def _require_sound_module(anchor: ModuleAnchor, shape: tuple[int, int]) -> None:
    _require(_LEAST <= anchor.scale < math.inf, f"a scale must be a positive number, got {anchor.scale}")
    figures = asdict(anchor.spectrum).values()
    are_numbers = all(isinstance(figure, float) or (isinstance(figure, int) and abs(figure) < 2**63) for figure in figures)
    _require(are_numbers, "the figures of a spectrum must be numbers")
    sides = {"out": (anchor.out, shape[0]), "inp": (anchor.inp, shape[1])}
    for side, (form, width) in sides.items():
        if form is not None:
            _require_sound_form(form, side, width)
    _require(not anchor.relative or anchor.inp is not None, "a relative anchor has a form on the input side")
    if anchor.eigenvalues is not None:
        kept = 0 if anchor.out is None else anchor.out.directions.shape[1]
        _require(
            tuple(anchor.eigenvalues.shape) == (kept,) and _are_exact(anchor.eigenvalues),
            f"the map's eigenvalues must be finite, one for each of the {kept} directions",
        )


def _require_sound_form(form: QuadraticForm, side: str, width: int) -> None:
    directions, weights = form.directions, form.weights
    _require(0 <= form.beta < math.inf, f"β of the {side} side must be 0 or a positive number, got {form.beta}")
    _require(
        directions.ndim == 2 and directions.shape[0] == width and directions.shape[1] <= width,
        f"directions of the {side} side must be of {width} rows and no more columns, got {tuple(directions.shape)}",
    )
    _require(
        tuple(weights.shape) == (directions.shape[1],) and _are_exact(weights) and bool((weights >= 0).all()),
        f"weights of the {side} side must be finite and not below 0, one for each of the {directions.shape[1]} directions",
    )
    _require(
        _are_exact(directions) and _deviation(directions) <= _ORTHONORMAL_WITHIN,
        f"directions of the {side} side must be orthonormal, and are not",
    )
    is_beyond_span = form.beta >= _LEAST and directions.shape[1] < width
    _require(is_beyond_span or bool((weights >= _LEAST).any()), f"the form of the {side} side is 0, and would not protect")


def _are_exact(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.float64) and is_finite(tensor)


def _deviation(directions: Tensor) -> float:
    """The largest entry of UᵀU − I, by its absolute value."""
    gram = directions.mT @ directions
    return float((gram - torch.eye(len(gram), device=gram.device)).abs().max()) if gram.numel() else 0.0


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)
