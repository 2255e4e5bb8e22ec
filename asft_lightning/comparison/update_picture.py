"""The update of every method, layer by layer: how large it is, and how it splits into aligned and orthogonal parts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from asft_lightning.comparison.pictures import save_picture
from asft_lightning.comparison.results import Cell
from asft_lightning.comparison.series import by_poison, poison_title, variant
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.alignment_log import AlignmentLog, LayerFigures
from asft_lightning.runs.alignment_picture import cell_of
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.heat_map import draw_heat_map
from asft_lightning.runs.moment import Moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {
    "norm": ("size ‖BA‖", "{:.2g}"),
    "aligned": ("aligned ‖C·BA‖² / ‖BA‖²", "{:.0%}"),
    "orthogonal": ("orthogonal ‖(I−C)·BA‖² / ‖BA‖²", "{:.0%}"),
}
_WRITTEN_UP_TO = 16
"""Layers × projections up to which each cell has its number in it."""
_LABELS = 24
"""Names that fit below a panel."""


def draw_update_parts(cells: Sequence[Cell], path: Path) -> bool:
    """Write a PNG: methods × layers, of the poison ratio in the middle; means over seeds of what AlignmentMonitor wrote.

    Returns:
        Whether some run had one.
    """
    panels = by_poison(cells)
    if not panels:
        return False
    ratio = list(panels)[len(panels) // 2]
    figures_by_label = {variant(cell, panels[ratio]): _figures(cell) for cell in panels[ratio]}
    rows = {label: figures for label, figures in figures_by_label.items() if figures}
    if not rows:
        return False
    from matplotlib.figure import Figure

    modules = sorted({module for figures in rows.values() for module in figures}, key=_order)
    width = max(2.6, 0.42 * min(len(modules), _LABELS) + 0.4)
    figure = Figure(figsize=(width * len(_PANELS) + 2.0, 0.28 * len(rows) + 1.6), layout="constrained")
    anchors = ", ".join(sorted({one.anchor for figures in rows.values() for one in figures.values()}))
    heading = ", ".join(filter(None, ["Update after training by layer", poison_title(ratio), f"measured against {anchors}"]))
    figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
    for i, (axis, name) in enumerate(zip(figure.subplots(1, len(_PANELS), sharey=True), _PANELS, strict=True)):
        _draw(axis, name, list(rows.values()), modules)
        if i == 0:
            axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
    save_picture(figure, path)
    return True


def _measured(run: Path) -> list[LayerFigures]:
    """What the run's monitor has written; of a damaged file nothing, which is said: the scores stand elsewhere."""
    try:
        return AlignmentLog(RunFolder(run).alignment).read()
    except ConfigurationError as error:
        warnings.warn(f"left out of the pictures of updates: {error}", stacklevel=2)
        return []


def _figures(cell: Cell) -> dict[str, LayerFigures]:
    """{module: means over seeds after training}, against ``Gram`` where it was measured, else against the first anchor."""
    rows = [row for result in cell.results for row in _measured(Path(result.folder)) if row.moment == Moment.AFTER]
    anchors = list(dict.fromkeys(row.anchor for row in rows))
    if not anchors:
        return {}
    anchor = "Gram" if "Gram" in anchors else anchors[0]
    by_module: dict[str, list[LayerFigures]] = {}
    for row in rows:
        if row.anchor == anchor:
            by_module.setdefault(row.module, []).append(row)
    return {module: _mean(rows_of_module) for module, rows_of_module in by_module.items()}


def _mean(rows: Sequence[LayerFigures]) -> LayerFigures:
    norm, aligned, orthogonal, penalty = (
        mean(getattr(row, name) for row in rows) for name in ("norm", "aligned", "orthogonal", "penalty")
    )
    first = rows[0]
    return LayerFigures(Moment.AFTER, first.step, first.module, first.anchor, norm, aligned, orthogonal, penalty)


def _order(module: str) -> tuple[str, int, str]:
    layer, kind = cell_of(module)
    return kind, -1 if layer is None else layer, module


def _draw(axis: Axes, name: str, rows: Sequence[Mapping[str, LayerFigures]], modules: Sequence[str]) -> None:
    heading, form = _PANELS[name]
    values = [[getattr(figures[m], name) if m in figures else None for m in modules] for figures in rows]
    draw_heat_map(axis, values, heading, form, len(modules) <= _WRITTEN_UP_TO, "vertical")
    every = -(-len(modules) // _LABELS)
    labels = ["{1} {0}".format(*cell_of(module)) for module in modules]
    axis.set_xticks(range(0, len(modules), every), labels[::every], fontsize=8, rotation=90)
