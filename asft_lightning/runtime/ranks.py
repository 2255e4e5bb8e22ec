"""What the ranks of a run tell each other; none may wait for one that has gone."""

from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.errors import TrainingError

T = TypeVar("T")


class EndTogether(Callback):
    """Ends a rank at once on an error that the other ranks know nothing of.

    ``ModelCheckpoint(save_on_exception=True)`` would have it wait for the others to save together, and those wait for it
    to go on training. What comes to every rank, as Ctrl-C, SIGTERM and a loss that is no number, is saved together.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before the callbacks that write checkpoints, which Lightning puts last."""
        if trainer.world_size > 1 and isinstance(exception, Exception) and not isinstance(exception, TrainingError):
            raise exception


def on_any_rank(trainer: Trainer | None, is_so_here: bool) -> bool:
    """Whether something is so on some rank; each must ask."""
    return is_so_here if trainer is None else trainer.strategy.reduce_boolean_decision(is_so_here, all=False)


def of_every_rank(value: T) -> list[T]:
    """What each rank has, in their order; every rank has to ask."""
    if not torch.distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered
