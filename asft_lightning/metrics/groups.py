"""GroupedMetric: sums kept for all answers and for each of a closed list of groups (categories of harm, tasks, sources).

SummedMetric, below it, is any metric of ours whose states are sums.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from asft_lightning.errors import ConfigurationError, DataError


def membership(groups: Sequence[Collection[str]] | None, names: Sequence[str], count: int) -> Tensor:
    """Which of ``count`` answers belongs where.

    Args:
        groups: For each answer the groups that it belongs to, several or none; None where no answer belongs to any.
        names: All groups there are.
        count: n, the number of answers.

    Returns:
        (n, 1 + names) booleans; the first column, for all answers, is true throughout.

    Raises:
        DataError: If an answer lacks its groups, or one is not among ``names``.
    """
    members = torch.zeros(count, 1 + len(names), dtype=torch.bool)
    members[:, 0] = True
    if groups is None:
        return members
    if len(groups) != count:
        raise DataError(f"every answer needs its groups, got groups for {len(groups)} of {count}. Give [] for one without.")
    if strings := [given for given in groups if isinstance(given, str)]:
        raise DataError(f"an answer's groups are a list of names, got the string {strings[0]!r}. Write [{strings[0]!r}].")
    columns = {name: column for column, name in enumerate(names, start=1)}
    if unknown := sorted({name for given in groups for name in given} - columns.keys()):
        raise DataError(
            f"an answer's groups must be among {list(names)}, got {unknown}. Name every group in the metric's `groups`."
        )
    for row, given in enumerate(groups):
        members[row, [columns[name] for name in given]] = True
    return members


class SummedMetric(Metric):
    """A metric whose states are sums over answers, and which says more of them than ``compute`` does."""

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0

    def _add(self, state: str, amount: Tensor) -> None:
        setattr(self, state, getattr(self, state) + amount.to(self.device))

    def _over_ranks(self, *states: str) -> list[Tensor]:
        """These states summed over the ranks, on every rank; afterwards each has its own again. Not for ``compute``.

        torchmetrics syncs around ``compute`` where that is due, and not in ``forward``, which wants the batch of one rank.
        """
        if self._is_synced:  # between the user's own sync and unsync
            return [getattr(self, state).clone() for state in states]
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return [getattr(self, state).clone() for state in states]


class GroupedMetric(SummedMetric):
    """What :class:`Share` and :class:`RubricScore` have in common; every state's first dimension is (all, *groups).

    Args:
        groups: The closed, ordered list of groups to report on.
        kwargs: Those of ``torchmetrics.Metric``.

    Raises:
        ConfigurationError: If ``groups`` is a string or has a name twice.
    """

    plot_upper_bound = 100.0

    def __init__(self, groups: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(groups, str) or len(set(groups)) < len(groups):
            raise ConfigurationError(f"groups must be a list of different names, got {groups!r}. Name each group once.")
        self.groups = tuple(groups)

    def _members(self, groups: Sequence[Collection[str]] | None, count: int) -> Tensor:
        return membership(groups, self.groups, count)
