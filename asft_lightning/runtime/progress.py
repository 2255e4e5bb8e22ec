"""Progress: how far a run has come and where its random generators are, kept so that a resumed run is the same run."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from asft_lightning.runtime.changed_settings import Defaults, optimizer_defaults, take_changed_settings
from asft_lightning.runtime.malformed import require_sound_progress
from asft_lightning.runtime.ranks import of_every_rank
from asft_lightning.runtime.trainer_callbacks import callbacks_of


@dataclass(frozen=True)
class _WholeStep:
    """The state right after an optimizer step.

    Args:
        number: Optimizer steps taken.
        fit_loop: Lightning's state of it.
        generators: This rank's.
    """

    number: int
    fit_loop: dict[str, Any]
    generators: dict[str, Tensor]


class Progress(Callback):
    """What a checkpoint says of a run's progress, which Lightning alone does not get right.

    A checkpoint between two micro-batches of an accumulated step would lack the gradients of the first ones, and from one in
    the middle of a batch, or where an epoch begins or ends, Lightning goes on with other batches. Ours always say where the
    last whole step was, whose weights and optimizer they hold, as one that is written right after it. They keep each rank's
    random generators, that dropout draws from. And they count the epoch that has begun, and know where it ends.
    """

    def __init__(self) -> None:
        self._whole: _WholeStep | None = None
        self._optimizers_before: list[Defaults] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the checkpoint says, with what the run now asks for."""
        trainer.fit_loop._load_combined_loader_states()  # also where a loader was asked for before the checkpoint was read
        take_changed_settings(trainer, self._optimizers_before)
        for scheduler in callbacks_of(trainer, GradientAccumulationScheduler):  # not told of an epoch that has begun
            scheduler.on_train_epoch_start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the state if this micro-batch ended a step."""
        if trainer.global_step > (0 if self._whole is None else self._whole.number):
            loop = trainer.fit_loop.state_dict()  # copies, all of it
            self._whole = _WholeStep(trainer.global_step, loop, _generators(pl_module.device))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the state of the last whole step into a checkpoint; every rank takes part."""
        generators, last_step = _generators(pl_module.device), self._whole
        if last_step is not None and trainer.global_step == last_step.number:
            checkpoint["loops"]["fit_loop"], generators = deepcopy(last_step.fit_loop), last_step.generators
        _count_begun_epoch(checkpoint["loops"]["fit_loop"])
        _begin_next_epoch_with_its_first_batch(checkpoint["loops"]["fit_loop"])
        checkpoint["rng"] = of_every_rank(generators)
        checkpoint["optimizer_defaults"] = optimizer_defaults(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the generators of the run that is resumed; on more ranks than it had, with those of another rank."""
        if trainer.state.fn != TrainerFn.FITTING or "rng" not in checkpoint:
            return
        require_sound_progress(checkpoint, trainer)
        self._optimizers_before = checkpoint.get("optimizer_defaults", [])
        generators, device = checkpoint["rng"][trainer.global_rank % len(checkpoint["rng"])], pl_module.device
        self._whole = _WholeStep(checkpoint["global_step"], deepcopy(checkpoint["loops"]["fit_loop"]), generators)
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"], device)


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _count_begun_epoch(fit_loop: dict[str, Any]) -> None:
    """Mend Lightning's count of epochs, or the next resume would begin the epoch anew.

    After a resume at an epoch's end it does not count the epoch that follows as begun.
    """
    batches, epochs = fit_loop["epoch_loop.batch_progress"]["current"], fit_loop["epoch_progress"]
    is_after_step = batches["completed"] < batches["processed"]
    for counts in (epochs["current"], epochs["total"]):
        if is_after_step and counts["ready"] == counts["completed"]:
            counts["ready"] = counts["started"] = counts["completed"] + 1


def _begin_next_epoch_with_its_first_batch(fit_loop: dict[str, Any]) -> None:
    """Forget how many batches a loader gave, where the epoch ended with the last of them.

    The loader alone does not know that one ends before its own end (``limit_train_batches``, ``overfit_batches``).
    """
    if fit_loop["epoch_loop.batch_progress"]["is_last_batch"]:
        for state in fit_loop["state_dict"].get("combined_loader", []):
            if state.keys() == {"batches"}:  # one of ours
                state["batches"] = 0
