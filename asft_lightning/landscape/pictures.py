"""Pictures of a map: scores along lines, over a plane, and as a surface; each as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from asft_lightning.landscape.report import Curve, Plane, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEVELS = tuple(range(0, 101, 10))
_COLOURS = "viridis"
_GREY = "0.45"


def draw_curves(report: Report, folder: Path) -> list[Path]:
    """Write ``curves``: a panel a score, the random directions as a band from the lowest to the highest and their mean."""
    from matplotlib.figure import Figure  # no pyplot: a notebook's backend stays as it is

    scores = list(report.curves[0].scores)
    figure = Figure(figsize=(7.0, 2.6 * len(scores) + 0.9), layout="constrained")
    panels = figure.subplots(len(scores), 1, sharex=True, squeeze=False)[:, 0]
    for panel, score in zip(panels, scores, strict=True):
        _draw_band(panel, report.random, score)
        for i, curve in enumerate(report.named):
            panel.plot(curve.positions, _drawn(curve.scores[score]), f"C{i}.-", ms=4, lw=1.4, label=curve.name)
        _frame(panel, score)
    panels[0].axhline(report.threshold, color="black", lw=0.8, ls="--")
    panels[0].annotate(f"τ = {report.threshold:g} %", (1.0, report.threshold), xycoords=("axes fraction", "data"),
                       xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    panels[-1].set_xlabel("α", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return _save(figure, folder / "curves")


def draw_plane(plane: Plane, report: Report, folder: Path) -> list[Path]:
    """Write ``plane``: the harmful score with its contours, the one at τ bold, and where fine-tuned models stand."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, 4.8), layout="constrained")
    axis = figure.subplots()
    values = _grid(plane, report.harmful_score)
    filled = axis.contourf(plane.positions, plane.positions, values, levels=_LEVELS, cmap=_COLOURS)
    axis.contour(plane.positions, plane.positions, values, levels=_LEVELS[1:-1], colors="white", linewidths=0.4)
    axis.contour(plane.positions, plane.positions, values, levels=[report.threshold], colors="red", linewidths=1.8)
    _bar(figure, filled, axis, report)
    axis.plot(0, 0, "*", color="white", mec="black", ms=12)
    for i, (name, path) in enumerate(plane.paths.items()):
        across, up, outside = zip(*path, strict=True)
        axis.plot([0, *across], [0, *up], ".-", color=f"C{i + 1}", lw=1.6, ms=4)
        label = f"{name} ({outside[-1]:.0%} of it outside the plane)"
        axis.plot(across[-1], up[-1], "o", color=f"C{i + 1}", mec="black", ms=7, label=label)
    axis.set(xlabel=f"α along {plane.first}", ylabel=f"β along {plane.second}")
    if plane.paths:
        figure.legend(loc="outside lower center", ncols=1, fontsize=8, frameon=False)
    return _save(figure, folder / "plane")


def draw_surface(plane: Plane, report: Report, folder: Path) -> list[Path]:
    """Write ``surface``: the same in three dimensions."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    axis: Any = figure.add_subplot(projection="3d")
    across, up = np.meshgrid(plane.positions, plane.positions)
    values = np.array(_grid(plane, report.harmful_score))
    axis.plot_surface(across, up, values, cmap=_COLOURS, vmin=0, vmax=100, edgecolor="0.3", lw=0.2, alpha=0.95)
    axis.view_init(elev=32, azim=-58)
    axis.set(xlabel=plane.first, ylabel=plane.second, zlim=(0, 100))
    axis.set_zlabel("harmful score (%)", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.set_box_aspect(None, zoom=0.88)  # else the label is cut off
    return _save(figure, folder / "surface")


def _draw_band(axis: Axes, curves: Sequence[Curve], score: str) -> None:
    if not curves:
        return
    positions = sorted(set(curves[0].positions).intersection(*(curve.positions for curve in curves)))
    columns = [_drawn([curve.at(alpha, score) for curve in curves]) for alpha in positions]
    middle = [mean(column) for column in columns]
    label = f"{len(curves)} random: mean, lowest to highest" if len(curves) > 1 else curves[0].name
    axis.fill_between(positions, [*map(min, columns)], [*map(max, columns)], color=_GREY, alpha=0.2, lw=0)
    axis.plot(positions, middle, ".-", color=_GREY, ms=4, lw=1.2, label=label)


def _frame(axis: Axes, score: str) -> None:
    is_share = score != "loss"
    axis.set_ylabel(f"{score.replace('_', ' ')} (%)" if is_share else "loss (nats a token)", fontsize=8)
    if is_share:
        axis.set_ylim(-4, 104)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8)


def _bar(figure: Figure, image: Any, axis: Axes, report: Report) -> None:
    bar = figure.colorbar(image, ax=axis, fraction=0.05, pad=0.02)
    bar.set_label(f"harmful score (%), red: τ = {report.threshold:g}", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _drawn(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _grid(plane: Plane, score: str) -> list[list[float]]:
    return [_drawn(row) for row in plane.scores[score]]


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, format=path.suffix[1:])
    return paths
