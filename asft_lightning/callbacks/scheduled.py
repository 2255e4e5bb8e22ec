"""ScheduledCallback: when something is done around training. What that is, is a subclass's."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.moment import Moment


@dataclass(eq=False, kw_only=True)
class ScheduledCallback(Callback, ABC):
    """Runs before training, every so often, and after.

    Args:
        at_start: Before the first step.
        every_n_steps: Every so many optimizer steps.
        every_n_epochs: Every so many epochs.
        at_end: After the last step.

    Raises:
        ConfigurationError: If a number is not positive.
    """

    at_start: bool = True
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    at_end: bool = True

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot be."""
        self.require_positive(every_n_steps=self.every_n_steps, every_n_epochs=self.every_n_epochs)
        self._last_step = 0

    def require_positive(self, **numbers: int | None) -> None:
        """Refuse numbers below 1.

        Raises:
            ConfigurationError: If there is one.
        """
        for argument, value in numbers.items():
            if value is not None and value < 1:
                raise ConfigurationError(f"{type(self).__name__}: {argument} must be 1 or more, got {value}.")

    @abstractmethod
    def run(self, trainer: Trainer, pl_module: LightningModule, moment: Moment) -> Any:
        """What is done at a moment."""

    def is_missing(self, trainer: Trainer, moment: Moment) -> bool:
        """Hook: whether the run that goes on was broken off in this; every rank is asked, the first one's word counts."""
        return False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model as it came; where a run goes on, what it was broken off in."""
        self._last_step = trainer.global_step
        if not trainer.global_step:
            if self.at_start:
                self.run(trainer, pl_module, Moment.BEFORE)
            return
        moment = Moment.at(trainer.global_step)
        is_epoch_end = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        is_due = self.is_due(trainer.global_step, self.every_n_steps) or (
            is_epoch_end and self.is_due(trainer.current_epoch, self.every_n_epochs)
        )
        if is_due and trainer.strategy.broadcast(self.is_missing(trainer, moment)):
            self.run(trainer, pl_module, moment)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every ``every_n_steps`` optimizer steps."""
        has_stepped = trainer.global_step > self._last_step  # not so after a batch that only accumulates
        self._last_step = trainer.global_step
        if has_stepped and self.is_due(trainer.global_step, self.every_n_steps):
            self.run(trainer, pl_module, Moment.at(trainer.global_step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every ``every_n_epochs`` epochs."""
        if self.is_due(trainer.current_epoch + 1, self.every_n_epochs):
            self.run(trainer, pl_module, Moment.at(trainer.global_step))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was trained."""
        if self.at_end:
            self.run(trainer, pl_module, Moment.AFTER)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model as it is."""
        self.run(trainer, pl_module, Moment.TEST)

    @staticmethod
    def is_due(count: int, every: int | None) -> bool:
        """Whether something that is done every so often is done at this count."""
        return every is not None and count % every == 0
