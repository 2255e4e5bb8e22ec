"""What a step must know of a batch, read on the host before the batch goes to a device: there, asking means waiting."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from asft_lightning.functional import IGNORE_INDEX

COLUMNS, ROWS, ROW_COUNT = "learnt_columns", "rows", "row_count"
READY = (COLUMNS, ROWS, ROW_COUNT)
"""What a ready batch has beside the model's inputs and what the collator says of tokens."""


def ready(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The batch with what its loss must know, and without a mask that changes nothing.

    Returns:
        The batch, and ``learnt_columns`` (columns,), those of ``labels[:, 1:]`` where a row has a token that is learnt;
        ``rows`` (lines, tokens), which row each token is of, counted over the batch; and ``row_count``, a number. There is
        no ``attention_mask`` where padding stands behind the rows: a causal model never looks there from a token that is
        learnt, and Transformers would ask the device whether it masks anything.
    """
    learnt = batch["labels"][:, 1:] != IGNORE_INDEX
    rows = _rows(batch)
    found: dict[str, Any] = {**batch, COLUMNS: learnt.any(dim=0).nonzero().squeeze(1), ROWS: rows}
    found[ROW_COUNT] = int(rows.max()) + 1
    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        del found["attention_mask"]
    return found


def _rows(batch: Mapping[str, Tensor]) -> Tensor:
    if "position_ids" in batch:
        return (batch["position_ids"] == 0).flatten().cumsum(0).view_as(batch["position_ids"]) - 1
    return torch.arange(len(batch["labels"]), device=batch["labels"].device)[:, None].expand_as(batch["labels"])
