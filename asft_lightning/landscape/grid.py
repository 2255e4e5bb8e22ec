"""Grids of points: where along which directions a model is scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from asft_lightning.errors import ConfigurationError

Point: TypeAlias = tuple[tuple[str, float], ...]
"""(direction, α) of each along which it is not 0, by name: the same place is the same point in every grid."""


def point(coordinates: Mapping[str, float]) -> Point:
    """A place as a point.

    >>> point({"random-0": 0.0, "aligned": 0.1})
    (('aligned', 0.1),)
    """
    return tuple(sorted((name, alpha) for name, alpha in coordinates.items() if alpha))


def positions(reach: float, count: int) -> list[float]:
    """α in equal steps from −reach to reach, with 0 in the middle; a finer grid has the same numbers where they coincide.

    Args:
        reach: The last.
        count: How many, odd.

    Raises:
        ConfigurationError: If a number cannot be.

    >>> positions(0.5, 5)
    [-0.5, -0.25, 0.0, 0.25, 0.5]
    """
    if count < 3 or count % 2 == 0:
        raise ConfigurationError(f"a line must have 0 in its middle: an odd number of points, 3 or more, got {count}.")
    if not 0 < reach < float("inf"):
        raise ConfigurationError(f"reach must be positive and finite, got {reach}. 0.5 moves a matrix by half its norm.")
    half = count // 2
    return [float(f"{reach * step / half:.12g}") for step in range(-half, half + 1)]


def line(name: str, alphas: list[float]) -> list[Point]:
    """The points along one direction."""
    return [point({name: alpha}) for alpha in alphas]


def plane(first: str, second: str, alphas: list[float]) -> list[list[Point]]:
    """The points along two: a row for each α along the second, in it those along the first."""
    return [[point({first: x, second: y}) for x in alphas] for y in alphas]


@dataclass(frozen=True)
class Grid:
    """Where a model is scored.

    Args:
        lines: {direction that is gone along by itself: α}.
        axes: Two directions that are gone along together; None for none.
        plane_positions: α along each of those.
    """

    lines: Mapping[str, list[float]]
    axes: tuple[str, str] | None
    plane_positions: list[float]

    @property
    def points(self) -> list[Point]:
        """All of them, line by line, then the plane."""
        rows = [] if self.axes is None else plane(*self.axes, self.plane_positions)
        return [
            place for places in [*(line(name, alphas) for name, alphas in self.lines.items()), *rows] for place in places
        ]
