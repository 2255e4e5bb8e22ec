"""Report: what a map found, as figures, a table and JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Self

from asft_lightning.functional import Basin, basin, visage
from asft_lightning.landscape.directions import Random
from asft_lightning.landscape.grid import plane
from asft_lightning.landscape.kept_points import KeptPoints
from asft_lightning.runtime.tables import Sheet

_FIGURES = ("width", "epl", "visage")


@dataclass(frozen=True)
class Curve:
    """The scores along one direction.

    Args:
        name: The direction's.
        positions: α.
        scores: {score: at each α}.
        basin: Where it is safe.
        visage: VISAGE.
    """

    name: str
    positions: list[float]
    scores: Mapping[str, list[float | None]]
    basin: Basin
    visage: float

    @classmethod
    def of(cls, name: str, positions: list[float], kept: KeptPoints, harmful_score: str, threshold: float) -> Self:
        """The curve of all kept points along a direction; VISAGE is that of the grid's, which are in equal steps.

        Args:
            name: The direction's.
            positions: α of the grid.
            kept: The points.
            harmful_score: The name of S.
            threshold: τ, in percent.
        """
        measured = kept.along(name, positions[-1])
        scores = {score: [of_point[score] for of_point in measured.values()] for score in measured[0.0]}
        harmful = {alpha: float(of_point[harmful_score] or 0.0) for alpha, of_point in measured.items()}
        found = basin(list(harmful), list(harmful.values()), threshold)
        return cls(name, list(measured), scores, found, visage([harmful[alpha] for alpha in positions]))

    @property
    def is_random(self) -> bool:
        """Whether it is along a random direction."""
        return self.name.startswith(Random.PREFIX)

    def at(self, alpha: float, score: str) -> float | None:
        """What was measured at one of its positions."""
        return self.scores[score][self.positions.index(alpha)]

    def figure(self, name: str) -> float:
        """``width``, ``epl`` or ``visage``."""
        return self.visage if name == "visage" else float(getattr(self.basin, name))

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {"low": self.basin.low, "high": self.basin.high, **{name: self.figure(name) for name in _FIGURES}}
        known = {name: None if math.isnan(value) else value for name, value in found.items()}
        return {"figures": {**known, "is_closed": self.basin.is_closed}, "positions": self.positions, "scores": self.scores}


@dataclass(frozen=True)
class Plane:
    """The scores along two directions at once.

    Args:
        first: The direction to the right.
        second: The direction upwards.
        positions: α along each.
        scores: {score: a row for each α along the second, in it one for each along the first}.
        paths: {run: of each checkpoint, and last of its end, (α, β) of its update within the plane, and the share of its
            norm that lies outside}.
    """

    first: str
    second: str
    positions: list[float]
    scores: Mapping[str, list[list[float | None]]]
    paths: Mapping[str, list[tuple[float, float, float]]]

    @classmethod
    def of(
        cls,
        names: tuple[str, str],
        positions: list[float],
        kept: KeptPoints,
        paths: Mapping[str, list[tuple[float, float, float]]],
    ) -> Self:
        """The plane of kept points.

        Args:
            names: Of the two directions.
            positions: α along each.
            kept: The points.
            paths: As above.
        """
        rows = [[kept.scores[place] for place in row] for row in plane(*names, positions)]
        scores = {score: [[of_point[score] for of_point in row] for row in rows] for score in rows[0][0]}
        return cls(*names, positions, scores, paths)


@dataclass(frozen=True)
class Report:
    """All that a map found.

    Args:
        harmful_score: The name of S.
        threshold: τ, in percent.
        prompts: {scorer: how many prompts}.
        norms: {direction: ‖d̂‖}.
        cosines: {direction: {another: their cosine}}.
        random_cosine: ``measured``, the mean of |cosine| of random directions with others, and ``expected``; blank for none.
        curves: Along each direction.
        plane: Along two; None for none.
        seconds_a_point: What a point took, in the mean.
    """

    harmful_score: str
    threshold: float
    prompts: Mapping[str, int]
    norms: Mapping[str, float]
    cosines: Mapping[str, Mapping[str, float]]
    random_cosine: Mapping[str, float]
    curves: Sequence[Curve]
    plane: Plane | None
    seconds_a_point: float

    @property
    def random(self) -> list[Curve]:
        """The curves along random directions."""
        return [curve for curve in self.curves if curve.is_random]

    @property
    def named(self) -> list[Curve]:
        """The others."""
        return [curve for curve in self.curves if not curve.is_random]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        epl = [curve.basin.epl for curve in self.curves if not math.isnan(curve.basin.epl)]
        return {
            "version": 1,
            "harmful_score": self.harmful_score,
            "threshold": self.threshold,
            "prompts": self.prompts,
            "seconds_a_point": self.seconds_a_point,
            "epl": max(epl, default=None),
            "random": {name: _spread([curve.figure(name) for curve in self.random]) for name in _FIGURES},
            "norms": self.norms,
            "cosines": self.cosines,
            "random_cosine": self.random_cosine,
            "curves": {curve.name: curve.plain() for curve in self.curves},
            "plane": None if self.plane is None else vars(self.plane),
        }

    def table(self) -> Sheet:
        """A line a direction; of several random ones the mean, the lowest and the highest."""
        apart = self.curves if len(self.random) == 1 else self.named
        rows = [
            [curve.name, _interval(curve.basin), *_cells(map(curve.figure, _FIGURES), curve.basin.is_closed)]
            for curve in apart
        ]
        if len(self.random) > 1:
            is_closed = all(curve.basin.is_closed for curve in self.random)
            spreads = [_spread([curve.figure(name) for curve in self.random]) or {} for name in _FIGURES]
            for part, what in {"mean": f"mean of {len(self.random)} random", "low": "lowest", "high": "highest"}.items():
                rows.append([what, "", *_cells((spread.get(part, math.nan) for spread in spreads), is_closed)])
        return Sheet(["direction", "safe from – to", "width", "EPL", "VISAGE"], rows)

    def lines(self) -> list[str]:
        """What a person should know beside the table."""
        at_centre = self.curves[0].at(0.0, self.harmful_score) or 0.0
        said = [
            f"{self.harmful_score} at the model itself: {at_centre:.1f} %, of {next(iter(self.prompts.values()))} prompts; "
            f"safe is up to {self.threshold:g} %. ≥: still safe where the line ends."
        ]
        pairs = [(one, other) for one in self.cosines for other in self.cosines if one < other]
        said += [f"cosine of {one} and {other}: {self.cosines[one][other]:+.4f}" for one, other in pairs]
        if self.random_cosine:
            found, due = self.random_cosine["measured"], self.random_cosine["expected"]
            said.append(f"|cosine| of random directions with others: {found:.2e} in the mean, √(2/πN) is {due:.2e}")
        return said


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Over random directions; those that are nowhere safe have no EPL."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    deviation = stdev(known) if len(known) > 1 else 0.0
    return {"mean": mean(known), "deviation": deviation, "low": min(known), "high": max(known), "count": len(known)}


def _interval(found: Basin) -> str:
    return "–" if math.isnan(found.low) else f"{found.low:+.3f} – {found.high:+.3f}"


def _cells(figures: Iterable[float], is_closed: bool) -> list[str]:
    """Width, EPL and VISAGE; of a line that is not left the first two are lower bounds."""
    least = ("", "", "") if is_closed else ("≥ ", "≥ ", "")
    return ["–" if math.isnan(figure) else f"{sign}{figure:.3f}" for sign, figure in zip(least, figures, strict=True)]
