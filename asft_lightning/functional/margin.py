"""How sure a model is of the token it says next, on a scale that does not saturate."""

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
