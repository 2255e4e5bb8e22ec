"""From examples to tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asft_lightning.data.example import Example
from asft_lightning.functional import IGNORE_INDEX


@dataclass(frozen=True)
class AnswerOnlyCollator:
    """Pads to the longest row of the batch, on the right; only the assistant's tokens carry labels.

    Args:
        pad_token_id: What to fill with; it is never attended to nor learnt, so that its value does not matter.
        packing: Lay short rows end to end in the room that padding would take, each with positions from 0 and nothing else
            to attend to: the same rows and the same loss from fewer tokens.
    """

    pad_token_id: int
    packing: bool = False

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The batch, each tensor int64 (lines, longest row) but for ``loss_weights``, of the same shape in float32.

        Returns:
            ``input_ids``, ``labels``, and ``attention_mask`` (1 for a token of a row); with ``packing`` instead of that
            ``position_ids``, which begin again at 0 with every row, and with the padding at the end of a line. Where a row
            of the batch has a weight other than 1, also ``loss_weights``, its row's for each token.
        """
        width = max(len(example) for example in examples)
        lines = _packed(examples, width) if self.packing else [[example] for example in examples]
        input_ids = torch.full((len(lines), width), self.pad_token_id)
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        positions = torch.full_like(input_ids, -1)
        weights = torch.ones(input_ids.shape)
        for line, line_of_examples in enumerate(lines):
            start = 0
            for example in line_of_examples:
                end = start + len(example)
                input_ids[line, start:end] = torch.tensor(example.input_ids)
                labels[line, start:end] = torch.tensor(example.labels)
                labels[line, start] = IGNORE_INDEX  # predicted from the row before it
                positions[line, start:end] = torch.arange(end - start)
                weights[line, start:end] = example.weight
                start = end
            if self.packing:
                positions[line, start:] = torch.arange(width - start)
        batch = {"input_ids": input_ids, "labels": labels}
        batch |= {"position_ids": positions} if self.packing else {"attention_mask": (positions >= 0).long()}
        return batch | ({} if bool((weights == 1).all()) else {"loss_weights": weights})


def _packed(examples: Sequence[Example], width: int) -> list[list[Example]]:
    """Lines of at most ``width`` tokens: the longest row first, each into the first line that has room."""
    lines: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda example: -len(example)):
        line = next((i for i, left in enumerate(room) if left >= len(example)), None)
        if line is None:
            lines.append([])
            room.append(width)
            line = len(lines) - 1
        lines[line].append(example)
        room[line] -= len(example)
    return lines
