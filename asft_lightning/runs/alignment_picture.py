"""The heat map of an update: layers × projections, its size, and its aligned and orthogonal parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asft_lightning.runs.alignment_log import LayerFigures
from asft_lightning.runs.heat_map import draw_heat_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {
    "norm": ("size ‖BA‖", "{:.2g}"),
    "aligned": ("aligned\n‖C·BA‖² / ‖BA‖²", "{:.0%}"),
    "orthogonal": ("orthogonal\n‖(I−C)·BA‖² / ‖BA‖²", "{:.0%}"),
    "penalty": ("penalty", "{:.2g}"),
}
_WRITTEN_UP_TO = 40
"""Layers up to which each cell has its number in it; beyond that it could not be read."""


def draw_alignment(rows: Sequence[LayerFigures], path: Path, title: str) -> None:
    """Write a PNG of one measurement: a row of panels an anchor, in each the layers from the first at the top.

    Args:
        rows: The figures of every layer and anchor.
        path: The file.
        title: Its heading.
    """
    from matplotlib.figure import Figure  # no pyplot: a notebook's backend stays as it is

    anchors = list(dict.fromkeys(row.anchor for row in rows))
    layers, kinds = axes_of([row.module for row in rows])
    height = max(2.4, (0.24 if len(layers) <= _WRITTEN_UP_TO else 0.12) * len(layers) + 1.3)
    width = max(1.6, 0.55 * len(kinds) + 1.0)
    figure = Figure(figsize=(width * len(_PANELS) + 0.6, height * len(anchors) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    panels = figure.subplots(len(anchors), len(_PANELS), squeeze=False)
    for anchor, line in zip(anchors, panels, strict=True):
        of_anchor = {cell_of(row.module): row for row in rows if row.anchor == anchor}
        for panel, name in zip(line, _PANELS, strict=True):
            _draw(panel, name, of_anchor, layers, kinds)
        line[0].set_ylabel(f"layer ({anchor})", fontsize=9)
    figure.savefig(path, dpi=150, format="png")


def cell_of(module: str) -> tuple[int | None, str]:
    """(layer, projection) of a module; None where its name has no number.

    >>> cell_of("model.layers.11.self_attn.q_proj"), cell_of("lm_head")
    ((11, 'q'), (None, 'lm_head'))
    """
    layer_match = re.search(r"\.(\d+)\.", f".{module}.")
    kind = module.rpartition(".")[2].removesuffix("_proj")
    return (int(layer_match[1]) if layer_match else None), kind


def axes_of(modules: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """The layers in order, what has no layer last; and the projections in the order of the model."""
    cells = [cell_of(module) for module in modules]
    layers = sorted({layer for layer, _ in cells}, key=lambda layer: (layer is None, layer or 0))
    return layers, list(dict.fromkeys(kind for _, kind in cells))


def _draw(
    axis: Axes,
    name: str,
    rows: Mapping[tuple[int | None, str], LayerFigures],
    layers: Sequence[int | None],
    kinds: Sequence[str],
) -> None:
    heading, form = _PANELS[name]
    values = [[getattr(rows[layer, kind], name) if (layer, kind) in rows else None for kind in kinds] for layer in layers]
    every = -(-len(layers) // _WRITTEN_UP_TO)
    draw_heat_map(axis, values, heading, form, every == 1, "horizontal")
    axis.set_xticks(range(len(kinds)), kinds, fontsize=8, rotation=0 if len(kinds) <= 4 else 45)
    axis.set_yticks(range(0, len(layers), every), ["–" if layer is None else str(layer) for layer in layers[::every]])
