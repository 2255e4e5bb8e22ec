"""Pictures of a comparison: HS against FA, and HS over training. None is drawn of what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean
from textwrap import fill, shorten
from typing import TYPE_CHECKING

from asft_lightning.comparison.labels import HEIGHT, WIDTH, add_label, put_apart
from asft_lightning.comparison.results import Cell, Spread
from asft_lightning.comparison.series import Series, by_poison, poison_title, series_of, shown
from asft_lightning.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*Xd<>ph"
_COLUMNS, _NAMED_COLUMNS = 3, 2
_NAME = 56
"""Characters of a name beside a point."""
_LABELS = 24
"""Points with names that one panel can hold."""

_TITLE = 36
"""Characters in a line above a panel."""


def pareto(cells: Sequence[Cell], path: Path, title: str) -> bool:
    """Write a PNG of :func:`pareto_figure`.

    Returns:
        Whether there was something to draw.
    """
    figure = pareto_figure(cells, title)
    if figure is not None:
        save_picture(figure, path)
    return figure is not None


def pareto_figure(cells: Sequence[Cell], title: str) -> Figure | None:
    """Mean HS against mean FA with their spreads; points of one curve are joined, and each point has its name beside it.

    There is a panel a poison ratio, or where it would hold too many points to name a panel a method.
    """
    measured = [cell for cell in cells if cell.spread("harmful_score") and cell.spread("accuracy")]
    if not measured:
        return None
    panels = _panels(measured)
    styles = _styles(series.label for lines in panels.values() for series in lines)
    most = max(sum(len(series.cells) for series in lines) for lines in panels.values())
    longest = min(_NAME, max(map(len, styles)))
    figure, axes = _grid(len(panels), title, (WIDTH * longest, HEIGHT * most + 1.0))
    lowest = min(_known(cell, "accuracy").mean - (_known(cell, "accuracy").deviation or 0.0) for cell in measured)
    for axis, (heading, lines) in zip(axes, panels.items(), strict=True):
        is_of_one = len({series.method for series in lines}) == 1
        for series in lines:
            _points(axis, series, *styles[series.label], is_named=not is_of_one)
        axis.set_title(fill(heading, _TITLE), fontsize=10)
        axis.set(xlabel="FA (%), higher is better", ylabel="HS (%), lower is better")
        axis.set(xlim=(min(max(lowest, 0.0) - 3, 90), 101.5), ylim=(-4, 104))
    put_apart(figure)
    return figure


def save_picture(figure: Figure, path: Path) -> None:
    """As a PNG, which is whole at any time: another process may be reporting, too."""
    image = BytesIO()
    figure.savefig(image, dpi=150, format="png", bbox_inches="tight")
    write_atomically(path, image.getvalue())


def _panels(cells: Sequence[Cell]) -> dict[str, list[Series]]:
    panels: dict[str, list[Series]] = {}
    for ratio, cells_of_ratio in by_poison(cells).items():
        is_full = len(cells_of_ratio) > _LABELS
        for series in series_of(cells_of_ratio):
            told = [series.method if is_full else "", poison_title(ratio)]
            panels.setdefault(", ".join(filter(None, told)), []).append(series)
    return panels


def over_steps(cells: Sequence[Cell], path: Path) -> bool:
    """Write a PNG of mean HS over training steps; a panel a poison ratio, or where methods have curves a panel a series.

    Returns:
        Whether some run was scored while it trained.
    """
    followed = [cell for cell in cells if _trajectory(cell)]
    if not followed:
        return False
    lines = {ratio: series_of(cells_of_ratio) for ratio, cells_of_ratio in by_poison(followed).items()}
    apart = any(series.curve for lines_of_ratio in lines.values() for series in lines_of_ratio)
    panels: dict[str, dict[str, Cell]] = {}
    for ratio, lines_of_ratio in lines.items():
        for series in lines_of_ratio:
            for cell in series.cells:
                heading = ", ".join(filter(None, [series.label if apart else "", poison_title(ratio)]))
                value = f"{series.curve} {shown(cell.axes[series.curve])}" if series.curve else series.label
                panels.setdefault(heading, {})[value] = cell
    styles = _styles(label for cell_by_label in panels.values() for label in cell_by_label)
    figure, axes = _grid(len(panels), "HS while training, mean over seeds")
    for axis, (heading, drawn) in zip(axes, panels.items(), strict=True):
        for label, cell in drawn.items():
            colour, marker = styles[label]
            steps, values = zip(*_trajectory(cell), strict=True)
            axis.plot(steps, values, color=colour, marker=marker, ms=4, lw=1.2)
        axis.set_title(fill(heading, _TITLE), fontsize=10)
        axis.set(xlabel="optimizer step", ylabel="HS (%)", ylim=(-4, 104))
    _legend(figure, styles)
    save_picture(figure, path)
    return True


def _points(axis: Axes, series: Series, colour: str, marker: str, is_named: bool) -> None:
    """Draw them, each with its name beside it; ``is_named`` where that needs the method."""
    spreads = [(_known(cell, "accuracy"), _known(cell, "harmful_score")) for cell in series.cells]
    x, y = ([spread.mean for spread in column] for column in zip(*spreads, strict=True))
    off = [[spread.deviation or 0.0 for spread in column] for column in zip(*spreads, strict=True)]
    line = "-" if series.curve else ""
    axis.errorbar(x, y, xerr=off[0], yerr=off[1], fmt=marker + line, color=colour, ms=6, lw=1.0, elinewidth=0.7, alpha=0.85)
    for cell, at in zip(series.cells, zip(x, y, strict=True), strict=True):
        value = "" if series.curve is None else f", {series.curve} {shown(cell.axes[series.curve])}"
        name = series.label + value
        text = name if is_named else name.removeprefix(f"{series.method}, ")
        add_label(axis, shorten(text, _NAME, placeholder=" …"), at, colour)


def _trajectory(cell: Cell) -> list[tuple[int, float]]:
    """(step, mean HS) of the steps that every run of the cell was scored at; of the first set of prompts that has some."""
    by_run = []
    for result in cell.results:
        names = [name for name in result.steps if name.rpartition("/")[2] == "harmful_score"]
        if not names:
            return []
        by_run.append(result.steps[names[0]])
    common = sorted(set(by_run[0]).intersection(*by_run))
    return [(step, mean(taken[step] for taken in by_run)) for step in common]


def _known(cell: Cell, figure: str) -> Spread:
    spread = cell.spread(figure)
    assert spread is not None
    return spread


def _styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each, told apart without colour too."""
    every = list(dict.fromkeys(labels))
    return {label: (f"C{i % 10}", _MARKERS[i % len(_MARKERS)]) for i, label in enumerate(every)}


def _grid(count: int, title: str, names: tuple[float, float] | None = None) -> tuple[Figure, list[Axes]]:
    """Panels, in a grid.

    Args:
        count: How many.
        title: Above all.
        names: Width and height of a column of names beside each, in inches.
    """
    from matplotlib.figure import Figure  # no pyplot: a notebook's backend stays as it is

    columns = min(count, _COLUMNS if names is None else _NAMED_COLUMNS)
    rows = -(-count // columns)
    size = 1.4 if count == 1 else 1.0
    beside, least = names or (0.0, 0.0)
    width, height = 3.7 * size + beside, max(3.4 * size, least)
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure, axes[:count]


def _legend(figure: Figure, styles: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, marker=marker, label=label) for label, (colour, marker) in styles.items()]
    width = figure.get_size_inches()[0]
    columns = max(1, min(len(handles), int(width / 1.8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
