"""How sure a model is of the token it says next, on a scale that does not saturate."""

import torch
from torch import Tensor


def top_token_margin(logits: Tensor) -> Tensor:
    """The log odds of the likeliest token, log p − log(1 − p).

    Args:
        logits: (n, vocabulary).

    Returns:
        (n,).
    """
    best, chosen = logits.max(dim=-1)
    return best - logits.scatter(-1, chosen[:, None], float("-inf")).logsumexp(dim=-1)


def log_odds(log_chance: float) -> float:
    """The odds of a chance p, log p − log(1 − p), from log p ≤ 0: exact near 0 and near 1, and finite.

    >>> log_odds(-0.6931471805599453), round(log_odds(-1e-9), 3)
    (0.0, 20.723)
    """
    chance = torch.tensor(min(log_chance, -1e-16), dtype=torch.float64)
    return float(chance - torch.log(-torch.expm1(chance)))
