"""How well a classifier of several labels a row does: F1, Jaccard, AUROC; and where to draw the line for each label."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, multilabel_f1_score
from torchmetrics.utilities.data import dim_zero_cat

from asft_lightning.errors import ConfigurationError


def best_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """For each label the threshold with the highest F1; a label that no row has keeps 0.5.

    It lies half-way between the two probabilities that it parts. Of several that are as good the highest is taken.

    Args:
        probabilities: (n, L), 0 to 1.
        labels: (n, L), 0 or 1.

    Returns:
        (L,), float32: a row has a label where its probability is more.

    >>> best_thresholds(torch.tensor([[0.9], [0.3], [0.1]]), torch.tensor([[1], [1], [0]]))
    tensor([0.2000])
    """
    found, order = probabilities.double().sort(dim=0, descending=True)
    hits = labels.gather(0, order).double().cumsum(0)
    taken = torch.arange(1, len(found) + 1, device=found.device)[:, None]
    f1 = 2 * hits / (taken + hits[-1:])
    below = torch.cat([found[1:], torch.zeros_like(found[:1])])
    f1 = torch.where(found > below, f1, -1.0)  # nothing parts equal probabilities
    best = f1.argmax(0, keepdim=True)
    middle = (found.gather(0, best) + below.gather(0, best))[0] / 2
    return torch.where(hits[-1] > 0, middle, 0.5).float()


def row_jaccard(found: Tensor, labels: Tensor) -> Tensor:
    """The mean over rows of |found ∧ labels| / |found ∨ labels|, 1 where both are empty: SemEval-2018's accuracy.

    Args:
        found: (n, L), 0 or 1.
        labels: (n, L), 0 or 1.

    >>> row_jaccard(torch.tensor([[1, 0], [0, 0]]), torch.tensor([[1, 1], [0, 0]]))
    tensor(0.7500)
    """
    both, either = (found.bool() & labels.bool()).sum(-1), (found.bool() | labels.bool()).sum(-1)
    return torch.where(either > 0, both / either.clamp_min(1), 1.0).mean()


def multi_label_scores(probabilities: Tensor, labels: Tensor, thresholds: Tensor) -> dict[str, Tensor]:
    """``macro_f1``, ``micro_f1`` and ``jaccard``, 0 to 1, of what is above the thresholds.

    Args:
        probabilities: (n, L), 0 to 1.
        labels: (n, L), 0 or 1.
        thresholds: (L,).
    """
    found, count = (probabilities > thresholds.to(probabilities)).long(), labels.shape[1]
    # A single label has no average over labels, and torchmetrics takes two at least.
    f1 = {
        name: multilabel_f1_score(found, labels.long(), num_labels=count, average=name) if count > 1 else _f1(found, labels)
        for name in ("macro", "micro")
    }
    return {"macro_f1": f1["macro"], "micro_f1": f1["micro"], "jaccard": row_jaccard(found, labels)}


def label_auroc(probabilities: Tensor, labels: Tensor) -> list[float | None]:
    """Each label's area under the ROC curve; None where all rows have it, or none."""
    return [
        float(binary_auroc(of_label, given.long())) if 0 < int(given.sum()) < len(given) else None
        for of_label, given in zip(probabilities.T, labels.T, strict=True)
    ]


class MultiLabelScores(Metric):
    """Probabilities and labels over batches and ranks, and what comes of them.

    Args:
        names: Of the labels.
        kwargs: Those of ``torchmetrics.Metric``.

    Raises:
        ConfigurationError: If there is none, or one stands twice.

    >>> metric = MultiLabelScores(["theft", "fraud"])
    >>> metric.update(torch.tensor([[0.9, 0.2], [0.4, 0.7]]), torch.tensor([[1, 0], [1, 1]]))
    >>> round(float(metric.compute()["micro_f1"]), 2), metric.thresholds().tolist()
    (0.8, [0.20000000298023224, 0.44999998807907104])
    """

    full_state_update = False
    higher_is_better = True
    probabilities: list[Tensor]
    labels: list[Tensor]

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**{"compute_with_cache": False, **kwargs})  # there are several things to compute
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"labels must be different names, at least one, got {list(names)}. Name each once.")
        self.names = tuple(names)
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add rows: ``probabilities`` (n, L) from 0 to 1, ``labels`` (n, L) of 0 or 1."""
        self.probabilities.append(probabilities.detach().float())
        self.labels.append(labels.detach().long())

    def compute(self, thresholds: Tensor | None = None) -> dict[str, Tensor]:
        """The scores of :func:`multi_label_scores`, and ``auroc/LABEL`` of each label that has one.

        Args:
            thresholds: (L,); None for 0.5.
        """
        probabilities, labels = dim_zero_cat(self.probabilities), dim_zero_cat(self.labels)
        used = torch.full((len(self.names),), 0.5) if thresholds is None else thresholds
        areas = zip(self.names, label_auroc(probabilities, labels), strict=True)
        known = {f"auroc/{name}": probabilities.new_tensor(area) for name, area in areas if area is not None}
        return multi_label_scores(probabilities, labels, used) | known

    def thresholds(self) -> Tensor:
        """Those of :func:`best_thresholds`, over all ranks, so call it on each."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute and not self._is_synced):
            return best_thresholds(dim_zero_cat(self.probabilities), dim_zero_cat(self.labels))


def _f1(found: Tensor, labels: Tensor) -> Tensor:
    return 2 * (found * labels).sum() / (found.sum() + labels.sum()).clamp_min(1)
