"""Landscape: a model that can be moved along directions, and what it is scored by."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import effective_size, expected_cosine
from asft_lightning.landscape.directions import Direction, Parts, Random, orthogonal
from asft_lightning.landscape.grid import Grid, Point
from asft_lightning.landscape.kept_points import KeptPoints, described
from asft_lightning.landscape.mapping import score_points
from asft_lightning.landscape.perturbation import Perturbation
from asft_lightning.landscape.rays import Norm, Ray, cosines
from asft_lightning.landscape.report import Curve, Plane, Report
from asft_lightning.landscape.scoring import PointScorer
from asft_lightning.landscape.space import Space
from asft_lightning.landscape.trail import projected, trail
from asft_lightning.runtime.devices import usable_device


class Landscape:
    """A model around which its score is mapped. In memory lie the model and the originals of the weights that are moved.

    Args:
        space: Which weights are moved.
        directions: Along which.
        norm: How directions are scaled, see :meth:`Ray.of`.
        device: Where the model is, e.g. ``cuda``; None for the accelerator if there is one.

    Raises:
        ConfigurationError: If two directions have one name, or one leads nowhere or cannot be had.
    """

    def __init__(
        self, space: Space, directions: Sequence[Direction], norm: Norm = "frobenius", device: str | None = None
    ) -> None:
        labels = [direction.label for direction in directions]
        if len(set(labels)) < len(labels) or not labels:
            raise ConfigurationError(f"a map needs directions, each with a name of its own, got {labels}. Set their `name`.")
        self.space, self.norm = space, norm
        where = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = space.pretrained.load_model().eval()
        self.model.to(where)
        self._perturbation = Perturbation(self.model, space.shapes)
        self._directions = dict(zip(labels, directions, strict=True))
        self._parts: dict[str, Parts] = {name: direction.open(space) for name, direction in self._directions.items()}
        self.rays = {name: self._ray(name, parts) for name, parts in self._parts.items()}

    def make_orthogonal(self, name: str, to: str) -> str:
        """Add a direction without what lies in another one, weight by weight; returns its name."""
        new = f"{name} (orthogonal)"
        self.rays[new] = self._ray(new, orthogonal(self._parts[name], self._parts[to]))
        return new

    def settings(self, scored_by: Mapping[str, Any], template: Template) -> dict[str, Any]:
        """What makes a point what it is, as plain data.

        Args:
            scored_by: The scorers' settings.
            template: How prompts are written.
        """
        measured = {name: {"norm": ray.norm, "length": ray.length} for name, ray in self.rays.items()}
        told = {name: described(direction) for name, direction in self._directions.items()}
        return {
            "pretrained": described(self.space.pretrained),
            "template": described(template),
            "norm": self.norm,
            "centre": Ray.of("centre", self._perturbation.originals.__getitem__, self._perturbation.originals, "raw").length,
            "weights": list(self.space.shapes),
            "directions": {name: told.get(name, {}) | measured[name] for name in self.rays},
            **{name: described(value) for name, value in scored_by.items()},
        }

    def score(self, points: Iterable[Point], scorer: PointScorer, kept: KeptPoints) -> None:
        """Score what is not kept yet; afterwards the model is as it was."""
        score_points(self.model, self._perturbation, self.rays, points, scorer, kept)

    def report(self, grid: Grid, scorer: PointScorer, kept: KeptPoints, threshold: float, runs: Mapping[str, str]) -> Report:
        """What all of a grid's points come to.

        Args:
            grid: Where it was scored.
            scorer: By what.
            kept: The points.
            threshold: τ, in percent.
            runs: {name: place} to find in the grid's plane.
        """
        axes, score = grid.axes, scorer.harmful_score
        paths = {} if axes is None else {name: self.path(name, run, axes) for name, run in runs.items()}
        pairs, by_chance = self.cosines()
        return Report(
            harmful_score=score,
            threshold=threshold,
            prompts=scorer.prompts,
            norms={name: ray.norm for name, ray in self.rays.items()},
            cosines=pairs,
            random_cosine=by_chance,
            curves=[Curve.of(name, alphas, kept, score, threshold) for name, alphas in grid.lines.items()],
            plane=None if axes is None else Plane.of(axes, grid.plane_positions, kept, paths),
            seconds_a_point=mean(kept.seconds[place] for place in grid.points),
        )

    def path(self, name: str, run: str, plane: tuple[str, str]) -> list[tuple[float, float, float]]:
        """Where the checkpoints of a run stand, and last the run, an adapter or a model, see :func:`projected`.

        Args:
            name: What to call it.
            run: Its place, as of :class:`Tuned`.
            plane: The two directions.
        """
        updates = [Ray.of(name, parts, self._perturbation.originals, "raw") for parts in trail(run, name, self.space)]
        first, second = (self.rays[axis] for axis in plane)
        return [projected(update, first, second, list(self.space.shapes)) for update in updates]

    def cosines(self) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """{direction: {direction: cosine}} of all that are not random, and what they are with random ones.

        The second is the mean of |cosine| of each random direction with the others that are not, and with the first random
        one, beside what is expected of directions so scaled; blank where there is none.
        """
        random = [ray for ray in self.rays.values() if ray.name.startswith(Random.PREFIX)]
        named = [ray for ray in self.rays.values() if ray not in random]
        others = [*named, *random[:1]]
        names = list(self.space.shapes)
        pairs = {ray.name: _by_name(named, row) for ray, row in zip(named, cosines(named, named, names), strict=True)}
        found = [_by_name(others, row) for row in cosines(random, others, names)]
        by_chance = [abs(c) for ray, row in zip(random, found, strict=True) for name, c in row.items() if name != ray.name]
        if not by_chance:
            return pairs, {}
        sizes = {name: self._perturbation.originals[name].numel() for name in random[0].squares}
        size = effective_size(sizes, random[0].squares)
        return pairs, {"measured": mean(by_chance), "expected": expected_cosine(size), "size": sum(sizes.values())}

    def _ray(self, name: str, parts: Parts) -> Ray:
        return Ray.of(name, parts, self._perturbation.originals, self.norm)


def _by_name(rays: Sequence[Ray], values: Sequence[float]) -> dict[str, float]:
    return {ray.name: value for ray, value in zip(rays, values, strict=True)}
