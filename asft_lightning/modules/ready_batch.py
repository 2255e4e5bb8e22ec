"""What a step must know of a batch, read on the host before the batch goes to a device: there, asking means waiting."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from asft_lightning.evaluation.shared_beginning import tokens_alike
from asft_lightning.functional import IGNORE_INDEX

COLUMNS, ROWS, ROW_COUNT, TOKENS, BEGINNING = "learnt_columns", "rows", "row_count", "token_count", "beginning"
READY = (COLUMNS, ROWS, ROW_COUNT, TOKENS, BEGINNING)
"""What a ready batch has beside the model's inputs and what the collator says of tokens."""


def ready(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The batch with what its loss must know, and without a mask that changes nothing.

    Returns:
        The batch, and ``learnt_columns`` (columns,), those of ``labels[:, 1:]`` where a row has a token that is learnt;
        ``rows`` (lines, tokens), which row each token is of, counted over the batch; ``row_count``, a number;
        ``token_count``, how many tokens are no padding; and ``beginning``, how many tokens all rows begin with alike before
        one is learnt, 0 of a single row, or where lines may begin with padding or hold several rows. There is no
        ``attention_mask`` where padding stands behind the rows: a causal model never looks there from a token that is
        learnt, and Transformers would ask the device whether it masks anything.
    """
    learnt = batch["labels"][:, 1:] != IGNORE_INDEX
    rows, columns = _rows(batch), learnt.any(dim=0).nonzero().squeeze(1)
    found: dict[str, Any] = {**batch, COLUMNS: columns, ROWS: rows}
    found[ROW_COUNT] = int(rows.max()) + 1
    mask = batch.get("attention_mask")
    found[TOKENS] = batch["labels"].numel() if mask is None else int((mask != 0).sum())
    if mask is not None and mask.dim() == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        del found["attention_mask"]
    begins_with_rows = not {"attention_mask", "position_ids"} & set(found) and len(columns) > 0
    found[BEGINNING] = tokens_alike(found["input_ids"], int(columns[0])) if begins_with_rows else 0
    return found


def _rows(batch: Mapping[str, Tensor]) -> Tensor:
    if "position_ids" in batch:
        return (batch["position_ids"] == 0).flatten().cumsum(0).view_as(batch["position_ids"]) - 1
    return torch.arange(len(batch["labels"]), device=batch["labels"].device)[:, None].expand_as(batch["labels"])
