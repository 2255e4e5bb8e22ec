"""WiScore (WISE, arXiv 2503.07265): how well images show what their prompts, 1000 of six fields of knowledge, only imply."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.metrics.groups import SummedMetric
from asft_lightning.metrics.share import wilson_interval


@dataclass(frozen=True)
class WiseVersion:
    """One version of the benchmark.

    Attributes:
        axes: {what a judge rates: how much it counts}; the weights add up to 1.
        highest: The best rating; the worst is 0, and ratings are whole numbers.
        groups: {field of knowledge: the ids of its prompts}; together 1 to 1000, and each counts by how many it has.
    """

    axes: Mapping[str, float]
    highest: int
    groups: Mapping[str, range]

    @property
    def ids(self) -> range:
        """All ids there are."""
        return range(1, 1 + sum(map(len, self.groups.values())))


def _fields(*last: int) -> dict[str, range]:
    names, first = ("culture", "time", "space", "biology", "physics", "chemistry"), (0, *last)
    return {name: range(low + 1, high + 1) for name, low, high in zip(names, first, last, strict=False)}


WISE_VERSIONS: Mapping[str, WiseVersion] = MappingProxyType(
    {
        "legacy": WiseVersion(
            {"consistency": 0.7, "realism": 0.2, "aesthetics": 0.1}, 2, _fields(400, 567, 700, 800, 900, 1000)
        ),
        "verified": WiseVersion({"correct": 1.0}, 1, _fields(400, 520, 640, 760, 880, 1000)),
    }
)


class GroupScore(NamedTuple):
    """The score of one group of prompts; NaN where none of it is rated."""

    mean: float
    """Mean WiScore of what is rated, 0 to 1."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
    rated: int
    """Prompts whose image is rated."""
    total: int
    """Prompts that there are."""


def wiscore(ratings: Tensor, version: WiseVersion) -> Tensor:
    """The WiScore of each image: its ratings' weighted mean, as a share of the best.

    Args:
        ratings: (n, axes), in the order of ``version.axes``.
        version: Of ``WISE_VERSIONS``.

    Returns:
        (n,), float64, 0 to 1.

    Raises:
        DataError: If a rating is no whole number from 0 to the best, or an axis lacks.

    >>> wiscore(torch.tensor([[2, 1, 0], [2, 2, 2]]), WISE_VERSIONS["legacy"])
    tensor([0.8000, 1.0000], dtype=torch.float64)
    """
    if ratings.ndim != 2 or ratings.shape[1] != len(version.axes):
        raise DataError(f"ratings must be (images, axes) for {', '.join(version.axes)}, got shape {tuple(ratings.shape)}.")
    values = ratings.detach().cpu().double()
    is_wrong = ~((values >= 0) & (values <= version.highest) & (values == values.round()))  # NaN is neither
    if bool(is_wrong.any()):
        raise DataError(
            f"a rating must be a whole number from 0 to {version.highest}, got {values[is_wrong][:5].tolist()}. "
            "Leave out images that the judge did not rate."
        )
    weights = torch.tensor(list(version.axes.values()), dtype=torch.float64)
    return (values @ weights / version.highest).clamp_max(1)  # the weights' sum may be rounded up


def wise_overall(means: Mapping[str, float], version: WiseVersion) -> float:
    """The overall score, from the mean of each field of knowledge, which counts by its number of prompts.

    Args:
        means: {field: its mean score}, for all fields of ``version``.
        version: Of ``WISE_VERSIONS``.

    Raises:
        DataError: If a field lacks.

    >>> fields = ["culture", "time", "space", "biology", "physics", "chemistry"]
    >>> flux = dict(zip(fields, [0.48, 0.58, 0.62, 0.42, 0.51, 0.35]))
    >>> round(wise_overall(flux, WISE_VERSIONS["legacy"]), 2)
    0.5
    """
    if absent := [name for name in version.groups if name not in means]:
        raise DataError(f"an overall score needs the mean of every field, got none of {', '.join(absent)}.")
    return sum(len(ids) / len(version.ids) * means[name] for name, ids in version.groups.items())


class WiScore(SummedMetric):
    """WiScore over batches and ranks, 0 to 1; higher is better.

    An id that is rated several times counts once, with the mean of its scores. What is not rated is not guessed: groups
    are over what is there and say how much that is, and there is no overall score until every id is rated.

    Args:
        version: ``legacy`` or ``verified``.
        confidence: Of the intervals, between 0 and 1.
        kwargs: Those of ``torchmetrics.Metric``.

    Raises:
        ConfigurationError: If there is no such version.

    >>> metric = WiScore("verified")
    >>> metric.update(torch.tensor([[1], [0]]), torch.tensor([401, 402]))
    >>> metric.compute(), metric.by_field()["time"].mean, metric.by_field()["time"].rated
    (tensor(nan), 0.5, 2)
    """

    higher_is_better = True
    plot_upper_bound = 1.0
    score_sums: Tensor
    times_rated: Tensor

    def __init__(self, version: str = "legacy", confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if version not in WISE_VERSIONS:
            raise ConfigurationError(f"version must be one of {', '.join(WISE_VERSIONS)}, got {version!r}.")
        wilson_interval(0, 0, confidence)  # it checks the confidence
        self.version = WISE_VERSIONS[version]
        self.confidence = confidence
        count = len(self.version.ids)
        self.add_state("score_sums", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("times_rated", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ratings: Tensor, ids: Tensor) -> None:
        """Add images.

        Args:
            ratings: (n, axes), in the order of the version's axes, whole numbers from 0 to its best.
            ids: (n,), the prompts' ids.

        Raises:
            DataError: If a rating or an id is none of the version's.
        """
        scores, count = wiscore(ratings, self.version), len(self.version.ids)
        places = ids.detach().cpu().long() - 1
        if places.shape != scores.shape or bool(((places < 0) | (places >= count)).any()):
            given = f"{ids.tolist()[:5]} for {len(scores)}"
            raise DataError(f"each image needs the id of its prompt, 1 to {count}, got {given}.")
        self._add("score_sums", torch.zeros(count, dtype=torch.float64).index_add(0, places, scores))
        self._add("times_rated", places.bincount(minlength=count))

    def compute(self) -> Tensor:
        """The overall score, a float32 scalar; NaN unless every id is rated."""
        scores = _scores(self.score_sums, self.times_rated)
        groups = {name: self._group(ids, scores) for name, ids in self.version.groups.items()}
        overall = wise_overall({name: group.mean for name, group in groups.items()}, self.version)
        is_whole = all(group.rated == group.total for group in groups.values())
        return torch.tensor(overall if is_whole else math.nan, dtype=torch.float32, device=self.device)

    def by_field(self) -> dict[str, GroupScore]:
        """Each field of knowledge, in the benchmark's order; over all ranks, so call it on each."""
        return self.by_group(self.version.groups)

    def by_group(self, groups: Mapping[str, Iterable[int]]) -> dict[str, GroupScore]:
        """The score of any groups of ids, e.g. of subcategories; over all ranks, so call it on each.

        Intervals are Wilson's. For scores between 0 and 1 they are too wide rather than too narrow: no spread is larger
        than that of zeros and ones.

        Args:
            groups: {name: ids}.
        """
        scores = _scores(*self._over_ranks("score_sums", "times_rated"))
        return {name: self._group(ids, scores) for name, ids in groups.items()}

    def _group(self, ids: Iterable[int], scores: dict[int, float]) -> GroupScore:
        members = list(ids)
        rated = [scores[i] for i in members if i in scores]
        total = math.fsum(rated)
        low, high = wilson_interval(min(total, len(rated)), len(rated), self.confidence)
        return GroupScore(total / len(rated) if rated else math.nan, low / 100, high / 100, len(rated), len(members))


def _scores(sums: Tensor, times: Tensor) -> dict[int, float]:
    """{id: its score} of what is rated."""
    pairs = zip(sums.tolist(), times.tolist(), strict=True)
    return {i: total / count for i, (total, count) in enumerate(pairs, start=1) if count}
