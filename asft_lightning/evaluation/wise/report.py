"""WiseReport: the scores of one model's images, as a table, as rows and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from asft_lightning.evaluation.wise.rater import ImageRating
from asft_lightning.evaluation.wise.records import WiseRecord, by_subcategory
from asft_lightning.metrics import WISE_VERSIONS, GroupScore, WiScore, wiscore

_COLUMNS = ("mean", "low", "high", "rated", "total")


@dataclass(frozen=True)
class WiseReport:
    """What was rated, and what comes of it.

    Attributes:
        version: Of ``WISE_VERSIONS``.
        overall: 0 to 1; None unless every id is rated.
        fields: {field of knowledge: its score}.
        subcategories: {field and subcategory: its score}.
        ratings: {id: its rating, or why there is none}.
    """

    version: str
    overall: float | None
    fields: dict[str, GroupScore]
    subcategories: dict[str, GroupScore]
    ratings: dict[int, ImageRating]

    @classmethod
    def of(cls, version: str, records: Sequence[WiseRecord], ratings: Mapping[int, ImageRating]) -> Self:
        """From the ratings of images."""
        metric, axes = WiScore(version), WISE_VERSIONS[version].axes
        rated = {i: rating.ratings for i, rating in ratings.items() if rating.ratings is not None}
        overall = math.nan
        if rated:
            values = torch.tensor([[of_image[axis] for axis in axes] for of_image in rated.values()])
            metric.update(values, torch.tensor(list(rated)))
            overall = float(metric.compute())
        subcategories = metric.by_group(by_subcategory(records))
        return cls(version, None if math.isnan(overall) else overall, metric.by_field(), subcategories, dict(ratings))

    @property
    def unrated(self) -> dict[int, str]:
        """{id of an image without a rating: why}."""
        return {i: rating.problem or "" for i, rating in self.ratings.items() if rating.ratings is None}

    @property
    def counts(self) -> tuple[int, int]:
        """Images that are rated, and prompts that there are."""
        return sum(score.rated for score in self.fields.values()), sum(score.total for score in self.fields.values())

    def table(self) -> list[tuple[str, ...]]:
        """The table: each field's score, its interval and counts, and the overall score."""
        lines = [_cells(name, score) for name, score in self.fields.items()]
        rated, total = self.counts
        overall = "–" if self.overall is None else f"{self.overall:.4f}"
        return [*lines, ("overall", overall, "", f"{rated} of {total}")]

    def rows_of_groups(self) -> list[dict[str, Any]]:
        """A row a field and a subcategory, and one for all."""
        groups = [("field", name, score) for name, score in self.fields.items()]
        groups += [("subcategory", name, score) for name, score in self.subcategories.items()]
        rows: list[dict[str, Any]] = [{"kind": kind, "name": name} | _entry(score) for kind, name, score in groups]
        rated, total = self.counts
        return [*rows, {"kind": "overall", "name": "overall", "mean": self.overall, "rated": rated, "total": total}]

    def rows_of_images(self, records: Sequence[WiseRecord]) -> list[dict[str, Any]]:
        """A row an image: its ratings and score, or why it has none."""
        version = WISE_VERSIONS[self.version]
        rows = []
        for record in records:
            row: dict[str, Any] = {"id": record.id, "field": record.field, "subcategory": record.subcategory}
            rating = self.ratings.get(record.id, ImageRating(None, "no image"))
            row |= dict.fromkeys((*version.axes, "wiscore"))
            if rating.ratings is not None:
                given = torch.tensor([[rating.ratings[axis] for axis in version.axes]])
                row |= rating.ratings | {"wiscore": round(float(wiscore(given, version)), 4)}
            rows.append(row | {"problem": rating.problem})
        return rows

    def plain(self) -> dict[str, Any]:
        """As JSON has it; null for what is not known."""
        return {
            "version": self.version,
            "overall": self.overall,
            "fields": {name: _entry(score) for name, score in self.fields.items()},
            "subcategories": {name: _entry(score) for name, score in self.subcategories.items()},
            "unrated": {str(i): problem for i, problem in self.unrated.items()},
        }


def _cells(name: str, score: GroupScore) -> tuple[str, ...]:
    if not score.rated:
        return name, "–", "", f"0 of {score.total}"
    return name, f"{score.mean:.4f}", f"{score.low:.2f}–{score.high:.2f}", f"{score.rated} of {score.total}"


def _entry(score: GroupScore) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(_COLUMNS, score, strict=True)}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
