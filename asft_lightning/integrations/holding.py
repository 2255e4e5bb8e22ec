"""Holding: when in a ``transformers.Trainer``'s step its model is held."""

from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft_lightning.errors import UnpenalisedError
from asft_lightning.integrations.protection import Protection


class Holding(TrainerCallback):  # type: ignore[misc]
    """Adds the gradient of what protects once an optimizer step, before that of its first micro-batch.

    It has a backward pass of its own. So it counts in full however a trainer, a model or a loss function divides the task's
    loss: by micro-batches, by tokens, by ranks. Under DDP it lies in the gradients before they are averaged.

    Args:
        trainer: The trainer.
        protection: What protects its model.
    """

    def __init__(self, trainer: Trainer, protection: Protection) -> None:
        self._trainer, self._protection = trainer, protection
        self._held_step: int | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Bind again: what is trained may have changed since the trainer was made, and a checkpoint may be loaded."""
        if self._trainer.model is not self._protection.model:
            raise UnpenalisedError(
                "what holds a model is bound to it when the trainer is made, and trainer.model is another one since. Make a "
                "new trainer for it."
            )
        self._protection.bind(resumed=True)
        self._held_step = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The gradient of what protects, in train mode as the task's, and scaled alike under fp16."""
        trainer, accelerator = self._trainer, self._trainer.accelerator
        for part in (trainer.model, trainer.optimizer):
            if callable(train := getattr(part, "train", None)):  # some optimizers have modes
                train()
        with accelerator.autocast():
            loss = self._protection.loss(state.global_step)
        if loss is not None:
            accelerator.backward(loss * accelerator.gradient_accumulation_steps)  # by which it divides; 1 in a Trainer
        self._held_step = state.global_step

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What follows a step; and no step without what protects."""
        if self._held_step != state.global_step:
            raise UnpenalisedError(
                f"each step must be held, and step {state.global_step} was not: {type(self._trainer).__name__} does not "
                "call its callbacks' on_step_begin. Take a trainer that does."
            )
        self._protection.stepped(lambda figure: self._trainer.accelerator.reduce(figure, reduction="mean"))
