"""Series: which cells are one line of a picture, and what a cell is called where several are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asft_lightning.comparison.results import Cell
from asft_lightning.comparison.spec import ATTACK, POISON


@dataclass(frozen=True)
class Series:
    """Cells of one method along one axis.

    Args:
        label: The method, with the axes that tell it from its other series.
        curve: The axis along which it goes, e.g. ``lambda``; None for a single cell.
        cells: In the order of that axis.
    """

    label: str
    curve: str | None
    cells: Sequence[Cell]

    @property
    def method(self) -> str:
        """Whose line it is."""
        return self.cells[0].method


def by_poison(cells: Sequence[Cell]) -> dict[Any, list[Cell]]:
    """{poison ratio: cells}, the lowest first; None where there is no such axis."""
    ratios = list(dict.fromkeys(cell.axes.get(POISON) for cell in cells))
    ordered = sorted(ratios, key=lambda ratio: (ratio is not None, ratio or 0.0))
    return {ratio: [cell for cell in cells if cell.axes.get(POISON) == ratio] for ratio in ordered}


def poison_title(ratio: Any) -> str:
    """A heading for the cells of one poison ratio."""
    return "" if ratio is None else f"p = {ratio:g}"


def variant(cell: Cell, cells: Sequence[Cell], without: str | None = None) -> str:
    """The method, with those of its axes that differ among ``cells``; the poison ratio is told elsewhere.

    Args:
        cell: What to name.
        cells: All that are shown.
        without: An axis that is told elsewhere, too.
    """
    cells_of_method = [other for other in cells if other.method == cell.method]
    told = [axis for axis in cell.axes if axis not in (POISON, without) and _values(cells_of_method, axis) > 1]
    return ", ".join([cell.method, *(setting(axis, cell.axes[axis]) for axis in told)])


def series_of(cells: Sequence[Cell]) -> list[Series]:
    """Cells of one poison ratio as lines: along a method's first axis with several numbers, apart by all others."""
    cells_by_label: dict[str, list[Cell]] = {}
    curves: dict[str, str | None] = {}
    for cell in cells:
        curve = _curve(cell, cells)
        label = variant(cell, cells, curve)
        cells_by_label.setdefault(label, []).append(cell)
        curves[label] = curve
    return [
        Series(label, curves[label], _along(cells_of_label, curves[label]))
        for label, cells_of_label in cells_by_label.items()
    ]


def shown(value: Any) -> str:
    """An axis's value for people."""
    if isinstance(value, list):
        return "+".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def axes_but_poison(axes: Mapping[str, Any]) -> str:
    """All axes of a cell in a few words."""
    return ", ".join(setting(axis, value) for axis, value in axes.items() if axis != POISON)


def setting(axis: str, value: Any) -> str:
    """An axis with its value; an attack by its own name alone, without the folder of its config; a poison ratio as p.

    >>> setting("rank", 8), setting("attack", "mixtures/harmful-only"), setting("poison_ratio", 0.1)
    ('rank 8', 'harmful-only', 'p 0.1')
    """
    return str(value).rpartition("/")[2] if axis == ATTACK else f"{'p' if axis == POISON else axis} {shown(value)}"


def _curve(cell: Cell, cells: Sequence[Cell]) -> str | None:
    cells_of_method = [other for other in cells if other.method == cell.method]
    candidates = [axis for axis in cell.axes if axis != POISON and _values(cells_of_method, axis) > 1]
    numeric = (
        axis for axis in candidates if all(isinstance(other.axes.get(axis), int | float) for other in cells_of_method)
    )
    return next(numeric, None)


def _along(cells: Sequence[Cell], curve: str | None) -> list[Cell]:
    return sorted(cells, key=lambda cell: cell.axes[curve]) if curve else list(cells)


def _values(cells: Sequence[Cell], axis: str) -> int:
    return len({repr(cell.axes.get(axis)) for cell in cells})
