"""What the ranks of a run tell each other; none may wait for one that has gone."""

from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor

T = TypeVar("T")


def on_any_rank(trainer: Trainer | None, is_so_here: bool) -> bool:
    """Whether something is so on some rank; each must ask."""
    return is_so_here if trainer is None else trainer.strategy.reduce_boolean_decision(is_so_here, all=False)


def mean_over_ranks(trainer: Trainer | None, value: Tensor) -> Tensor:
    """The mean of what each rank has, on every rank, the same to the last bit; each must ask, none waits for a device."""
    if trainer is None or trainer.world_size == 1:
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)  # Lightning's own has all ranks and devices wait for each other before
    return total / trainer.world_size


def greatest_over_ranks(trainer: Trainer | None, value: Tensor) -> Tensor:
    """The greatest of what each rank has, element by element; each must ask, none waits for a device."""
    if trainer is None or trainer.world_size == 1:
        return value
    greatest = value.clone()
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    return greatest


def of_every_rank(value: T) -> list[T]:
    """What each rank has, in their order; every rank has to ask."""
    if not torch.distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered
