"""From the losses of tokens to the loss of a batch, and what marks a token that is not learnt."""

import torch
from torch import Tensor, nn

IGNORE_INDEX = -100
"""Label of a token that is not to be learnt, as in Transformers and as PyTorch's cross-entropy has it."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """−log p of each token that is learnt (rows, tokens), 0 elsewhere; float32, or wider where the logits are.

    Args:
        logits: (rows, tokens, vocabulary).
        targets: The tokens (rows, tokens), :data:`IGNORE_INDEX` for one that is not learnt.
    """
    exact = logits.transpose(1, 2).to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(exact, targets, ignore_index=IGNORE_INDEX, reduction="none")


def mean_over_tokens(losses: Tensor, is_learnt: Tensor, rows: Tensor, row_count: int) -> Tensor:
    """The mean over all tokens that are learnt, as Transformers and the authors: long answers count more.

    Args:
        losses: Of each token (lines, tokens), 0 where it is not learnt.
        is_learnt: Which tokens are (lines, tokens), booleans.
        rows: Which row each token is of; of no account here.
        row_count: How many there are; neither is this.

    Returns:
        A scalar.
    """
    return losses.sum() / is_learnt.sum()


def mean_over_rows(losses: Tensor, is_learnt: Tensor, rows: Tensor, row_count: int) -> Tensor:
    """The mean over rows of their token means: the same under accumulation and over ranks.

    Args:
        losses: Of each token (lines, tokens), 0 where it is not learnt.
        is_learnt: Which tokens are (lines, tokens), booleans.
        rows: Which row each token is of (lines, tokens), counted from 0 over the batch.
        row_count: How many there are.

    Returns:
        A scalar.
    """
    # A product adds up in a fixed order, on a GPU too; and to ask the device for the number of rows would be to wait for it.
    members = (rows.flatten()[:, None] == torch.arange(row_count, device=rows.device)).to(losses.dtype)
    sums, counts = losses.flatten() @ members, is_learnt.flatten().to(losses.dtype) @ members
    return (sums / counts.clamp_min(1)).sum() / (counts > 0).sum()  # the padding of a packed line is no row
