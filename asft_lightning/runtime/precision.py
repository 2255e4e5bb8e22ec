"""Under precision plugins: what is kept at float32 and what it is given, and weights rounded once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def keep_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A module's move or cast ``fn`` that follows the device, and the dtype only where it is no narrower than float32.

    At bfloat16 I − C rounds to I, and a factor that takes steps of 1e-5 stands still.
    """

    def moved(tensor: Tensor) -> Tensor:
        probe = fn(torch.empty(0, dtype=tensor.dtype, device=tensor.device))
        return tensor.to(probe.device, torch.promote_types(probe.dtype, torch.float32))

    return moved


@contextmanager
def casting_once() -> Iterator[None]:
    """Inside a plugin's autocast: a weight is rounded once for all passes, and not, as Lightning has it, in each anew.

    What comes out is the same to the last bit. The rounded weights stay in memory until autocast ends; of weights that take
    no gradient it keeps none.
    """
    was = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(True)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(was)


def to_its_own_precision(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook for what is trained in float32 on a model in half precision: its input in its weights' dtype."""
    dtype = next(module.parameters()).dtype
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)
