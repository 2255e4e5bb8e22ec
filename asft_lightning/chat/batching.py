"""Token ids in batches: rows of similar length together, padded on one side."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class PaddedBatch(NamedTuple):
    """Rows of one length.

    Attributes:
        input_ids: Token ids (rows, longest), int64.
        attention_mask: 1 for a token of a row, 0 for padding, of the same shape.
    """

    input_ids: Tensor
    attention_mask: Tensor


def batches_by_length(rows: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """The rows' places in batches, the shortest rows first: rows of similar length share a batch, and little is padded.

    >>> batches_by_length([[1, 2, 3], [1], [1, 2]], 2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padded(
    rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device, side: Literal["left", "right"] = "right"
) -> PaddedBatch:
    """Rows as one batch.

    Args:
        rows: Token ids, at least one row.
        pad_token_id: What to fill with; it is never attended to.
        device: Where to.
        side: Where the padding stands: ``left`` for generation, which goes on at the end of every row; ``right`` elsewhere,
            for positions are then as without padding.
    """
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for line, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        input_ids[line, place] = torch.tensor(row, dtype=torch.int64)
        attention_mask[line, place] = 1
    return PaddedBatch(input_ids.to(device), attention_mask.to(device))
