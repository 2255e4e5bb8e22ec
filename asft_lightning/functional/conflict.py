"""Two gradients of one step: the task's, and that of what protects."""

import torch
from torch import Tensor

from asft_lightning.functional.quadratic_form import Total, whole

_ROUNDING = 1e-5
"""Of a gradient this much shorter than the other, as where nothing has changed yet, the direction is that of roundings."""


def without_conflict(task: Tensor, protection: Tensor, total: Total = whole) -> tuple[Tensor, Tensor]:
    """The sum of both, after the task's was freed of what lies against the other (SafeGrad, arXiv 2508.07172).

    With g_t and g_k: g_t − (⟨g_t, g_k⟩/‖g_k‖²) g_k + g_k where ⟨g_t, g_k⟩ < 0, and g_t + g_k elsewhere.

    Args:
        task: g_t (n,), or a shard of it.
        protection: g_k (n,), with its weight, or the same shard.
        total: Sums over the shards.

    Returns:
        The gradient to step along (n,), and the cosine between the two before, a scalar; 0 where either has no direction.
    """
    inner, square, task_square = total(torch.stack([task @ protection, protection @ protection, task @ task]))
    has_direction = square > _ROUNDING**2 * task_square
    against = torch.where(has_direction, inner.clamp(max=0) / square, 0)
    lengths = square.sqrt() * task_square.sqrt()
    cosine = torch.where(has_direction & (lengths > 0), inner / lengths, 0)
    return task + (1 - against) * protection, cosine
