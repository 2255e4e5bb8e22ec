"""RubricEvaluation: how good answers are in a judge's eyes, on axes of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torchmetrics import Metric

from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.chat.rows import Row
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import Rater
from asft_lightning.evaluation.finding import Finding
from asft_lightning.metrics import RubricScore


@dataclass(eq=False, kw_only=True)
class RubricEvaluation(ScoringCallback):
    """Weighted mean of a rater's numbers, in percent of their range, as ``rubric/score``.

    Where prompts have categories, the score of each stands in ``summary.json``.

    The other arguments are those of :class:`ScoringCallback`.

    Args:
        rater: Who gives the numbers, e.g. :class:`EndpointRater`.
        weights: {axis: how much it counts}, the rater's axes.
        lowest: The lowest number of a rater that does not say it itself; null for 1.
        highest: Its highest; null for 10.

    Raises:
        ConfigurationError: If weights or range cannot be, or are not those of the rater.
    """

    kind: ClassVar[str] = "rubric"

    rater: Rater
    weights: dict[str, float]
    lowest: float | None = None
    highest: float | None = None

    def __post_init__(self) -> None:
        """A mistake shows before anything is loaded."""
        super().__post_init__()
        self.scale = self._told("lowest", self.lowest, 1), self._told("highest", self.highest, 10)
        if set(axes := getattr(self.rater, "axes", self.weights)) != set(self.weights):
            raise ConfigurationError(
                f"weights must be those of the rater's axes {list(axes)}, got {list(self.weights)}. Name each."
            )
        RubricScore(self.weights, *self.scale)

    def _told(self, name: str, given: float | None, usual: float) -> float:
        """The rater's own number, or else the one given."""
        of_rater: float | None = getattr(self.rater, name, None)
        if of_rater is not None and given is not None and of_rater != given:
            raise ConfigurationError(f"{name} must be that of the rater, {of_rater}, got {given}. Leave it out.")
        return next((number for number in (of_rater, given) if number is not None), usual)

    def metrics(self) -> dict[str, Metric]:
        """The rubric score."""
        return {"score": RubricScore(self.weights, *self.scale, groups=self.categories)}

    def score(self, rows: Sequence[Row], answers: Sequence[str], metrics: dict[str, Metric]) -> list[Finding]:
        """Have each answer rated."""
        ratings = self.rater([row.asked() for row in rows], answers, [row.answer for row in rows])
        rated = [(rating.scores, row.categories) for row, rating in zip(rows, ratings, strict=True) if rating.scores]
        if rated:
            numbers = torch.tensor([[scores[axis] for axis in self.weights] for scores, _ in rated])
            metrics["score"].update(numbers, [categories for _, categories in rated])
        return [Finding({"ratings": rating.scores}, problem=rating.problem) for rating in ratings]
