"""Progress: how far a run has come and where its random generators are, kept so that a resumed run is the same run."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from asft_lightning.runtime.ranks import of_every_rank


@dataclass(frozen=True)
class _WholeStep:
    """The state right after an optimizer step.

    Args:
        number: Optimizer steps taken.
        batches: Micro-batches processed.
        fit_loop: Lightning's state of it.
        generators: This rank's.
    """

    number: int
    batches: int
    fit_loop: dict[str, Any]
    generators: dict[str, Tensor]


class Progress:
    """What a checkpoint says of a run's progress, which Lightning alone does not get right.

    A checkpoint between two micro-batches of an accumulated step would lack the gradients of the first ones, and from one in
    the middle of a batch, or where an epoch begins or ends, Lightning goes on with other batches; a run that is ended writes
    such. Ours then says where the last whole step was, whose weights and optimizer it holds. It keeps each rank's random
    generators, that dropout draws from. And it counts the epoch that has begun.
    """

    def __init__(self) -> None:
        self._whole: _WholeStep | None = None

    def after_batch(self, trainer: Trainer, device: torch.device) -> None:
        """Note the state if this micro-batch ended a step."""
        if self._whole is None or trainer.global_step > self._whole.number:
            loop = deepcopy(trainer.fit_loop.state_dict())
            self._whole = _WholeStep(trainer.global_step, _batches(trainer), loop, _generators(device))

    def write(self, checkpoint: dict[str, Any], trainer: Trainer, device: torch.device) -> None:
        """Put the state of the last whole step into a checkpoint; every rank has to ask."""
        generators, last_step = _generators(device), self._whole
        is_within = last_step is not None and (trainer.interrupted or _batches(trainer) != last_step.batches)
        if last_step is not None and is_within and trainer.global_step == last_step.number:
            checkpoint["loops"]["fit_loop"], generators = deepcopy(last_step.fit_loop), last_step.generators
        _count_begun_epoch(checkpoint["loops"]["fit_loop"])
        checkpoint["rng"] = of_every_rank(generators)

    def read(self, checkpoint: dict[str, Any], rank: int, device: torch.device) -> None:
        """Go on with the generators of the run that is resumed; on more ranks than it had, with those of another rank."""
        generators = checkpoint["rng"][rank % len(checkpoint["rng"])]
        fit_loop = checkpoint["loops"]["fit_loop"]
        batches = fit_loop["epoch_loop.batch_progress"]["total"]["processed"]
        self._whole = _WholeStep(checkpoint["global_step"], batches, deepcopy(fit_loop), generators)
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"], device)


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _batches(trainer: Trainer) -> int:
    return int(trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]["processed"])


def _count_begun_epoch(fit_loop: dict[str, Any]) -> None:
    """Mend Lightning's count of epochs, or the next resume would begin the epoch anew.

    After a resume at an epoch's end it does not count the epoch that follows as begun.
    """
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    done = batches["current"]
    within = done["completed"] < done["processed"] or (done["processed"] > 0 and not batches["is_last_batch"])
    for counts in (epochs["current"], epochs["total"]):
        if within and counts["ready"] == counts["completed"]:
            counts["ready"] = counts["started"] = counts["completed"] + 1
