"""How far a model's next-token distributions, or the states that they are made of, are from another's."""

import torch
from torch import Tensor


def mean_divergence(reference: Tensor, current: Tensor, counted: Tensor) -> Tensor:
    """KL(reference ‖ current) in nats, its mean over the positions that count; float32, or wider where the logits are.

    Args:
        reference: Logits (rows, positions, vocabulary); no gradient flows into them.
        current: Logits of the same shape.
        counted: Which positions count (rows, positions), booleans, one at least.

    Returns:
        A scalar, never below 0 but for rounding.
    """
    dtype = torch.promote_types(current.dtype, torch.float32)
    kept = counted.unsqueeze(-1)  # a position that does not count may hold anything
    expected = torch.where(kept, reference.detach(), 0).to(dtype).log_softmax(-1)
    found = torch.where(kept, current, 0).to(dtype).log_softmax(-1)
    divergences = (expected.exp() * (expected - found)).sum(-1)
    return (divergences * counted).sum() / counted.sum()


def mean_squared_distance(reference: Tensor, current: Tensor, counted: Tensor) -> Tensor:
    """(reference − current)², its mean over the positions that count and over the width; float32, or wider where states are.

    Args:
        reference: Hidden states (rows, positions, width); no gradient flows into them.
        current: Hidden states of the same shape.
        counted: Which positions count (rows, positions), booleans, one at least.

    Returns:
        A scalar.
    """
    dtype = torch.promote_types(current.dtype, torch.float32)
    apart = current.to(dtype) - reference.detach().to(dtype)
    squares = torch.where(counted.unsqueeze(-1), apart, 0).square()  # a position that does not count may hold anything
    return squares.sum() / (counted.sum() * current.shape[-1])
