"""Incoherence rate: the share of answers that are noise, in percent; what a harmful score is worth depends on it."""

from collections.abc import Collection, Sequence

from torch import Tensor

from asft_lightning.metrics.share import Share, share


def incoherence_rate(incoherent: Tensor) -> Tensor:
    """Percentage of answers that are noise; :func:`share_by_group` tells it by group.

    Args:
        incoherent: (n,) of booleans or 0/1, n ≥ 1.

    Raises:
        ValueError: If there is no answer, or a value is neither 0 nor 1.

    >>> import torch
    >>> incoherence_rate(torch.tensor([1, 0, 0, 0]))
    tensor(25.)
    """
    return share(incoherent)


class IncoherenceRate(Share):
    """Incoherence rate over batches and ranks; lower is better.

    Args:
        groups: The closed, ordered list of groups for ``by_group``.
        confidence: Of the intervals, between 0 and 1.
        kwargs: Those of ``torchmetrics.Metric``.

    >>> import torch
    >>> metric = IncoherenceRate()
    >>> metric.update(torch.tensor([1, 0])); metric.update(torch.tensor([0, 0]))
    >>> metric.compute()
    tensor(25.)
    """

    higher_is_better = False
    counted = "incoherent"
    incoherent: Tensor

    def update(self, incoherent: Tensor, groups: Sequence[Collection[str]] | None = None) -> None:
        """Add answers: ``incoherent`` (n,) of booleans or 0/1, ``groups`` as in :meth:`Share.update`."""
        super().update(incoherent, groups)
