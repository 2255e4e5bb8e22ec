"""Constrained fine-tuning, token by token (arXiv 2406.05946): how much of a token's loss counts, by how far it has come."""

from collections.abc import Sequence

import torch
from torch import Tensor


def answer_places(is_learnt: Tensor) -> Tensor:
    """Which token of its answer each is, from 1; 0 where it is not learnt.

    An answer is what is learnt without a gap: of a conversation with several, each is counted for itself.

    Args:
        is_learnt: Which tokens are (lines, tokens), booleans.

    Returns:
        (lines, tokens), int64.
    """
    learnt_so_far = is_learnt.long().cumsum(1)
    before_answer = torch.where(is_learnt, 0, learnt_so_far).cummax(1).values
    return torch.where(is_learnt, learnt_so_far - before_answer, 0)


def constraint_weights(
    losses: Tensor, reference: Tensor, places: Tensor, first_betas: Sequence[float], beta: float, least: float
) -> Tensor:
    """2σ(−β_t Δ_t), Δ_t = log π − log π_ref, or ``least`` where that is more: what each token's loss is multiplied with.

    With it the cross-entropy has the gradient of Σ (2/β_t) softplus(−β_t Δ_t), as far as ``least`` does not count.

    Args:
        losses: −log π of each token (lines, tokens).
        reference: −log π_ref, of the same shape.
        places: Of :func:`answer_places`.
        first_betas: β of an answer's first tokens.
        beta: β of the tokens after them.
        least: Of a weight.

    Returns:
        The weights, without a gradient: 1 where π is π_ref, from 2 where a token has become less likely, to ``least``.
    """
    gained = (reference - losses).detach()
    betas = torch.full_like(gained, beta)
    for place, first_beta in enumerate(first_betas, start=1):
        betas = torch.where(places == place, first_beta, betas)
    return (2 * torch.sigmoid(-betas * gained)).clamp_min(least)
