"""The two scores of "What is in your safe data?" (arXiv 2404.01099), to stand beside `conflict`.

Facts from the paper and its authors' code: the first ten tokens of an answer count; gradient matching takes the inner
product of a row's gradient, divided by its norm, with the mean of such gradients of harmful rows, less that with the mean
of the same requests with safe answers; representation matching takes the highest cosine between what the last layer holds
at a row's last token and at that of a harmful row. The authors take the gradients of all weights; here they are those of
LoRA's B that `conflict` takes, all layers as one vector, so that both see the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.row_gradients import Batch, RowGradients
from asft_lightning.data import Example
from asft_lightning.functional import IGNORE_INDEX

ANSWER_TOKENS = 10


def shortened(examples: Sequence[Example]) -> list[Example]:
    """The rows, with what comes after the first tokens of their answers cut off."""
    return [_shortened(example.input_ids, example.labels, example) for example in examples]


def _shortened(ids: list[int], labels: list[int], example: Example) -> Example:
    learnt = [place for place, label in enumerate(labels) if label != IGNORE_INDEX][:ANSWER_TOKENS]
    return Example(ids[: learnt[-1] + 1], labels[: learnt[-1] + 1], example.row)


class GradientMatching:
    """Bidirectional: towards harmful rows, away from the same requests with safe answers."""

    def __init__(
        self, aligned: AlignedModel, layers: Sequence[str], harmful: Sequence[Example], safe: Sequence[Example]
    ) -> None:
        self._aligned, self._gradients = aligned, RowGradients(aligned.model, layers)
        self._towards, self._away = (self._vectors(rows).mean(dim=0) for rows in (harmful, safe))

    def __call__(self, examples: Sequence[Example]) -> list[float]:
        """The score of each row."""
        found: list[float] = (self._vectors(examples) @ (self._towards - self._away)).tolist()
        return found

    def _vectors(self, examples: Sequence[Example]) -> Tensor:
        """The gradient of each row, of norm 1 (rows, numbers)."""
        vectors: dict[int, Tensor] = {}
        for places, batch in self._aligned.training_batches(shortened(examples), "gradients"):
            with self._aligned.computing():
                vectors |= dict(zip(places, self._of_batch(batch), strict=True))
        return torch.stack([vectors[place] for place in range(len(examples))])

    def _of_batch(self, batch: Batch) -> Tensor:
        layers: list[Tensor] = []
        self._gradients(batch, lambda _, found: layers.append(found.flatten(1).cpu()))
        return normalize(torch.cat(layers, dim=1))


class RepresentationMatching:
    """How near a row lies to the nearest harmful one."""

    def __init__(self, aligned: AlignedModel, harmful: Sequence[Example]) -> None:
        self._aligned = aligned
        self._harmful = self._states(harmful)

    def __call__(self, examples: Sequence[Example]) -> list[float]:
        """The score of each row."""
        found: list[float] = (self._states(examples) @ self._harmful.mT).max(dim=1).values.tolist()
        return found

    def _states(self, examples: Sequence[Example]) -> Tensor:
        texts: Any = [example.input_ids for example in shortened(examples)]
        states: dict[int, Tensor] = {}
        for places, of_layers in self._aligned.states(texts, "representations"):
            states |= dict(zip(places, of_layers[:, -1], strict=True))
        return normalize(torch.stack([states[place] for place in range(len(texts))]))
