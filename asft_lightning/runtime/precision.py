"""Keeping the few small tensors that need it at float32, under precision plugins that cast whole modules."""

from collections.abc import Callable

import torch
from torch import Tensor


def keep_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A module's move or cast ``fn`` that follows the device, and the dtype only where it is no narrower than float32.

    At bfloat16 I − C rounds to I, and a factor that takes steps of 1e-5 stands still.
    """

    def moved(tensor: Tensor) -> Tensor:
        probe = fn(torch.empty(0, dtype=tensor.dtype, device=tensor.device))
        return tensor.to(probe.device, torch.promote_types(probe.dtype, torch.float32))

    return moved
