"""Share: how many in a hundred answers are hits, with the uncertainty that so many answers leave, in all and by group."""

import math
from collections.abc import Collection, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.metrics.groups import GroupedMetric, membership


class GroupShare(NamedTuple):
    """One group's share; percentages are NaN where no answer belongs to the group."""

    percent: float
    """Share of hits, in percent."""
    low: float
    """Lower end of its interval, in percent."""
    high: float
    """Upper end of its interval, in percent."""
    total: int
    """Answers that belong to the group."""


def wilson_interval(hits: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share, in percent.

    It stays within 0 to 100 and keeps a width at 0 and at ``total`` hits, where the usual ± standard error has none.

    Args:
        hits: 0 to ``total``; a sum of scores from 0 to 1 as well, for which the interval is rather too wide.
        total: Number of answers.
        confidence: Between 0 and 1.

    Returns:
        (low, high) in percent; (NaN, NaN) where there are no answers.

    Raises:
        DataError: If ``hits`` is not within 0 to ``total``.
        ConfigurationError: If ``confidence`` is not between 0 and 1.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209.

    >>> low, high = wilson_interval(0, 64)
    >>> low, round(high, 1)
    (0.0, 5.7)
    """
    _check_confidence(confidence)
    if not 0 <= hits <= total:
        raise DataError(f"hits must be 0 to total, got {hits} of {total}. Count every answer in total.")
    if total == 0:
        return math.nan, math.nan
    z = -NormalDist().inv_cdf((1 - confidence) / 2)
    return 100.0 * _lower(hits, total, z), 100.0 * (1.0 - _lower(total - hits, total, z))


def share(hits: Tensor) -> Tensor:
    """Share of hits, in percent.

    Args:
        hits: (n,) of booleans or 0/1, n ≥ 1.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: If there is no answer, or a value is neither 0 nor 1.

    >>> share(torch.tensor([True, False, False, False]))
    tensor(25.)
    """
    return torch.tensor(_percent(int(_verdicts(hits, fewest=1).sum()), len(hits)), dtype=torch.float32, device=hits.device)


def share_by_group(
    hits: Tensor, groups: Sequence[Collection[str]], names: Sequence[str], confidence: float = 0.95
) -> dict[str, GroupShare]:
    """Share of hits of each group.

    Args:
        hits: (n,) of booleans or 0/1.
        groups: n times the names of the groups that the answer belongs to, several or none.
        names: The closed, ordered list of groups.
        confidence: Of the interval, between 0 and 1.

    Returns:
        One entry for each of ``names``, in their order.

    Raises:
        ValueError: If a value is neither 0 nor 1.
        DataError: If an answer lacks its groups, or one is not among ``names``.
        ConfigurationError: If ``confidence`` is not between 0 and 1.

    >>> found = share_by_group(torch.tensor([1, 0, 0]), [["fraud"], ["fraud", "theft"], []], ["fraud", "theft"])
    >>> found["fraud"].percent, found["theft"].percent
    (50.0, 0.0)
    """
    right, total = _counts(_verdicts(hits), membership(groups, names, len(hits)))
    return _by_group(names, right, total, confidence)


class Share(GroupedMetric):
    """Share of hits in percent, over batches and ranks; each answer counts once.

    Args:
        groups: The closed, ordered list of groups for :meth:`by_group`.
        confidence: Of the intervals, between 0 and 1.
        kwargs: Those of ``torchmetrics.Metric``.

    Raises:
        ConfigurationError: If ``groups`` has a name twice, or ``confidence`` is not between 0 and 1.

    >>> metric = Share(groups=["fraud", "theft"])
    >>> metric.update(torch.tensor([1, 0, 0]), [["fraud"], ["fraud", "theft"], []])
    >>> metric.compute(), metric.by_group()["fraud"].percent
    (tensor(33.3333), 50.0)
    """

    counted: str = "hits"
    """Name of the state that counts hits, another for each kind of hit: a ``MetricCollection`` takes metrics that have the
    same states after one batch for one and the same metric."""
    total: Tensor

    def __init__(self, groups: Sequence[str] = (), confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(groups, **kwargs)
        _check_confidence(confidence)
        self.confidence = confidence
        # Whole numbers: exact beyond float32's 2²⁴, and known to devices without float64.
        self.add_state(self.counted, torch.zeros(1 + len(groups), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(1 + len(groups), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hits: Tensor, groups: Sequence[Collection[str]] | None = None) -> None:
        """Add answers.

        Args:
            hits: (n,) of booleans or 0/1.
            groups: n times the names of the groups that the answer belongs to, several or none; None for none at all.

        Raises:
            ValueError: If a value is neither 0 nor 1.
            DataError: If an answer lacks its groups, or one was not named in the constructor.
        """
        right, total = _counts(_verdicts(hits), self._members(groups, len(hits)))
        self._add(self.counted, right)
        self._add("total", total)

    def compute(self) -> Tensor:
        """Percent of all answers so far, a float32 scalar; NaN where there were none."""
        hits = getattr(self, self.counted)
        return torch.tensor(_percent(int(hits[0]), int(self.total[0])), dtype=torch.float32, device=self.device)

    def interval(self) -> tuple[float, float]:
        """Wilson interval of ``compute``'s share, (low, high) in percent; over all ranks, so call it on each."""
        hits, total = self._over_ranks(self.counted, "total")
        return wilson_interval(int(hits[0]), int(total[0]), self.confidence)

    def by_group(self) -> dict[str, GroupShare]:
        """Each group's share, in the order of ``groups``; over all ranks, so call it on each."""
        hits, total = self._over_ranks(self.counted, "total")
        return _by_group(self.groups, hits, total, self.confidence)


def _verdicts(hits: Tensor, fewest: int = 0) -> Tensor:
    if hits.ndim != 1 or len(hits) < fewest or not bool(((hits == 0) | (hits == 1)).all()):
        needed = "one 0/1 verdict an answer" + (", and at least one" if fewest else "")
        raise ValueError(f"a share needs {needed}, got {hits!r}. Pass (n,) booleans; compare scores with a threshold first.")
    return hits.cpu().bool()


def _counts(hits: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + groups,) hits and answers, from (n,) and (n, 1 + groups)."""
    return (members & hits[:, None]).sum(0), members.sum(0)


def _by_group(names: Sequence[str], hits: Tensor, total: Tensor, confidence: float) -> dict[str, GroupShare]:
    counts = zip(names, hits[1:].tolist(), total[1:].tolist(), strict=True)
    return {name: GroupShare(_percent(h, n), *wilson_interval(h, n, confidence), n) for name, h, n in counts}


def _percent(hits: int, total: int) -> float:
    return 100.0 * hits / total if total else math.nan


def _lower(hits: float, total: int, z: float) -> float:
    """Smaller root of (p − x)² = z² x (1 − x) / n, as the roots' product over the larger: nothing cancels, 0 at p = 0."""
    p, s = hits / total, z * z / total
    return p * p / (p + s / 2 + math.sqrt(s * (p * (1 - p) + s / 4)))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must be between 0 and 1, got {confidence}. Write 0.95 for 95 percent.")
