"""The update of every method, layer by layer: how large it is, and how it splits into aligned and orthogonal parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from asft_lightning.comparison.results import Cell, alignment_of
from asft_lightning.comparison.series import by_poison, poison_title, variant
from asft_lightning.runs.alignment_log import AlignmentLog, LayerFigures
from asft_lightning.runs.alignment_picture import cell_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {
    "norm": ("size ‖BA‖", "{:.2g}"),
    "aligned": ("aligned ‖C·BA‖² / ‖BA‖²", "{:.0%}"),
    "orthogonal": ("orthogonal ‖(I−C)·BA‖² / ‖BA‖²", "{:.0%}"),
}
_WRITTEN_UP_TO = 16
"""Layers × projections up to which each cell has its number in it."""


def update_parts(cells: Sequence[Cell], path: Path) -> bool:
    """Write a PNG: methods × layers, of the poison ratio in the middle; means over seeds of what AlignmentMonitor wrote.

    Returns:
        Whether some run had one.
    """
    panels = by_poison(cells)
    if not panels:
        return False
    ratio = list(panels)[len(panels) // 2]
    found = {variant(cell, panels[ratio]): _figures(cell) for cell in panels[ratio]}
    rows = {label: figures for label, figures in found.items() if figures}
    if not rows:
        return False
    from matplotlib.figure import Figure

    modules = sorted({module for figures in rows.values() for module in figures}, key=_order)
    width = max(2.6, 0.42 * min(len(modules), 24) + 0.4)
    figure = Figure(figsize=(width * len(_PANELS) + 2.0, 0.28 * len(rows) + 1.6), layout="constrained")
    anchors = ", ".join(sorted({one.anchor for figures in rows.values() for one in figures.values()}))
    heading = ", ".join(filter(None, ["Update after training by layer", poison_title(ratio), f"measured against {anchors}"]))
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    for i, (axis, name) in enumerate(zip(figure.subplots(1, len(_PANELS), sharey=True), _PANELS, strict=True)):
        _draw(axis, name, list(rows.values()), modules)
        if i == 0:
            axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
    figure.savefig(path, dpi=150, format="png", bbox_inches="tight")
    return True


def _figures(cell: Cell) -> dict[str, LayerFigures]:
    """{module: means over seeds after training}, against ``Gram`` where it was measured, else against the first anchor."""
    runs = [[row for row in AlignmentLog(alignment_of(result)).read() if row.when == "after"] for result in cell.results]
    rows = [row for run in runs for row in run]
    anchors = list(dict.fromkeys(row.anchor for row in rows))
    if not anchors:
        return {}
    anchor = "Gram" if "Gram" in anchors else anchors[0]
    by_module: dict[str, list[LayerFigures]] = {}
    for row in rows:
        if row.anchor == anchor:
            by_module.setdefault(row.module, []).append(row)
    return {module: _mean(own) for module, own in by_module.items()}


def _mean(rows: Sequence[LayerFigures]) -> LayerFigures:
    norm, aligned, orthogonal, penalty = (
        mean(getattr(row, name) for row in rows) for name in ("norm", "aligned", "orthogonal", "penalty")
    )
    first = rows[0]
    return LayerFigures("after", first.step, first.module, first.anchor, norm, aligned, orthogonal, penalty)


def _order(module: str) -> tuple[str, int, str]:
    layer, kind = cell_of(module)
    return kind, -1 if layer is None else layer, module


def _draw(axis: Axes, name: str, rows: Sequence[Mapping[str, LayerFigures]], modules: Sequence[str]) -> None:
    heading, form = _PANELS[name]
    values = [[getattr(figures[m], name) if m in figures else float("nan") for m in modules] for figures in rows]
    top = max((value for line in values for value in line if value == value), default=0.0) or 1.0
    image = axis.imshow(values, cmap="viridis", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    every = -(-len(modules) // 24)
    labels = ["{1} {0}".format(*cell_of(module)) for module in modules]
    axis.set_xticks(range(0, len(modules), every), labels[::every], fontsize=8, rotation=90)
    axis.set_title(heading, fontsize=9)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    if len(modules) <= _WRITTEN_UP_TO:
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if value == value:
                    colour = "black" if value > 0.6 * top else "white"
                    axis.text(x, y, form.format(value), ha="center", va="center", fontsize=6, color=colour)
    bar = axis.figure.colorbar(image, ax=axis, orientation="vertical", pad=0.01, fraction=0.04)
    bar.set_ticks([0.0, top], labels=["0", form.format(top)], fontsize=8)
    bar.outline.set_visible(False)
