"""MultiLabelLoss: what a classifier of several labels a row is trained by, with a contrastive loss or without."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import (
    intra_label_contrastive,
    jaccard_contrastive,
    stepwise_contrastive,
    strict_contrastive,
)

Contrastive = Literal["SCL", "ICL", "JSCL", "JSPCL", "SLCL"]


class ClassifierOutputs(NamedTuple):
    """What a classifier makes of n texts.

    Attributes:
        logits: (n, labels).
        embeddings: (n, width), what the logits are read from.
        label_embeddings: (n, labels, width), each label's own in each text; ICL alone wants them.
    """

    logits: Tensor
    embeddings: Tensor
    label_embeddings: Tensor | None = None


def _intra_label(outputs: ClassifierOutputs, labels: Tensor, temperature: float) -> Tensor:
    if outputs.label_embeddings is None:
        raise ConfigurationError("ICL compares the labels of a text, and got no label_embeddings. Give them, or take SCL.")
    return intra_label_contrastive(outputs.label_embeddings, labels, temperature)


_LOSSES: Mapping[str, Callable[[ClassifierOutputs, Tensor, float], Tensor]] = {
    "SCL": lambda outputs, labels, temperature: strict_contrastive(outputs.embeddings, labels, temperature),
    "ICL": _intra_label,
    "JSCL": lambda outputs, labels, temperature: jaccard_contrastive(outputs.embeddings, labels, temperature),
    "JSPCL": lambda outputs, labels, temperature: jaccard_contrastive(outputs.logits, labels, temperature),
    "SLCL": lambda outputs, labels, temperature: stepwise_contrastive(outputs.embeddings, labels, temperature),
}


class ContrastiveLoss(nn.Module):
    """One of the five losses of arXiv 2212.00552, by its name there.

    Args:
        kind: ``SCL``, ``ICL``, ``JSCL``, ``JSPCL`` or ``SLCL``; see :mod:`asft_lightning.functional.contrastive`.
        temperature: T > 0.

    Raises:
        ConfigurationError: If ``kind`` is no such name, or ``temperature`` is not positive.
    """

    def __init__(self, kind: Contrastive, temperature: float = 1.0) -> None:
        super().__init__()
        if kind not in _LOSSES:
            raise ConfigurationError(f"a contrastive loss must be one of {', '.join(_LOSSES)}, got {kind!r}.")
        if not 0 < temperature < float("inf"):
            raise ConfigurationError(f"temperature must be positive and finite, got {temperature}. 0.5 to 2 is usual.")
        self.kind = kind
        self.temperature = temperature

    def forward(self, outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
        """The loss, a float32 scalar; ``labels`` (n, labels) of 0 or 1."""
        return _LOSSES[self.kind](outputs, labels, self.temperature)

    def extra_repr(self) -> str:
        """What it is, where a module is printed."""
        return f"{self.kind}, temperature={self.temperature:g}"


class MultiLabelLoss(nn.Module):
    """(1 − α)·BCE + α·CL; without a contrastive loss BCE alone.

    Args:
        contrastive: Name of the contrastive loss CL; null for none.
        alpha: α, its share, 0 to 1; at T = 1 it is some 14 times as steep as its logarithms, so little goes far.
        temperature: Its T.
        positive_weights: What a label that is there counts in BCE beside one that is not, for each label; null for 1.

    Raises:
        ConfigurationError: If ``alpha`` or a weight is out of range, or as :class:`ContrastiveLoss`.
    """

    positive_weights: Tensor | None

    def __init__(
        self,
        contrastive: Contrastive | None = None,
        alpha: float = 0.01,
        temperature: float = 1.0,
        positive_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ConfigurationError(f"alpha is the contrastive loss's share, 0 to 1, got {alpha}. 0.001 to 0.1 is usual.")
        if positive_weights is not None and not all(0 < weight < float("inf") for weight in positive_weights):
            raise ConfigurationError(f"positive_weights must be positive and finite, got {list(positive_weights)}.")
        self.contrastive = None if contrastive is None else ContrastiveLoss(contrastive, temperature)
        self.alpha = alpha
        weights = None if positive_weights is None else torch.tensor(positive_weights, dtype=torch.float32)
        self.register_buffer("positive_weights", weights, persistent=False)

    def forward(self, outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
        """The loss, a float32 scalar; ``labels`` (n, labels) of 0 or 1."""
        logits = outputs.logits.to(torch.promote_types(outputs.logits.dtype, torch.float32))
        weights = None if self.positive_weights is None else self.positive_weights.to(logits)
        bce = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=weights)
        if self.contrastive is None:
            return bce
        contrast: Tensor = self.contrastive(outputs, labels)
        return (1 - self.alpha) * bce + self.alpha * contrast
