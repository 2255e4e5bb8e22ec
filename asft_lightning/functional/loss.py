"""From the losses of tokens to the loss of a batch, and what marks a token that is not learnt."""

from torch import Tensor, nn

IGNORE_INDEX = -100
"""Label of a token that is not to be learnt, as in Transformers and as PyTorch's cross-entropy has it."""


def mean_over_tokens(losses: Tensor, is_learnt: Tensor, rows: Tensor) -> Tensor:
    """The mean over all tokens that are learnt, as Transformers and the authors: long answers count more.

    Args:
        losses: Of each token (lines, tokens), 0 where it is not learnt.
        is_learnt: Which tokens are (lines, tokens), booleans.
        rows: Which row each token is of; of no account here.

    Returns:
        A scalar.
    """
    return losses.sum() / is_learnt.sum()


def mean_over_rows(losses: Tensor, is_learnt: Tensor, rows: Tensor) -> Tensor:
    """The mean over rows of their token means: the same under accumulation and over ranks.

    Args:
        losses: Of each token (lines, tokens), 0 where it is not learnt.
        is_learnt: Which tokens are (lines, tokens), booleans.
        rows: Which row each token is of (lines, tokens), counted from 0 over the batch.

    Returns:
        A scalar.
    """
    members = nn.functional.one_hot(rows.flatten()).to(losses.dtype)  # a product adds up in a fixed order, on a GPU too
    sums, counts = losses.flatten() @ members, is_learnt.flatten().to(losses.dtype) @ members
    return (sums / counts.clamp_min(1)).sum() / (counts > 0).sum()  # the padding of a packed line is no row
