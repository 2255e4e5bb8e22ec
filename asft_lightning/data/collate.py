"""From examples to tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asft_lightning.data.mixture import Example

IGNORE_INDEX = -100
"""Label of a token that is not to be learnt, as in Transformers."""


@dataclass(frozen=True)
class AnswerOnlyCollator:
    """Pads to the longest row of the batch, on the right; only answer tokens carry labels.

    Args:
        pad_token_id: What to fill with; masked, so that its value does not matter.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``labels``, each int64 (batch, longest row)."""
        rows = [example.prompt_ids + example.answer_ids for example in examples]
        width = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        for i, (row, example) in enumerate(zip(rows, examples, strict=True)):
            input_ids[i, : len(row)] = torch.tensor(row)
            attention_mask[i, : len(row)] = 1
            labels[i, len(example.prompt_ids) : len(row)] = torch.tensor(example.answer_ids)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
