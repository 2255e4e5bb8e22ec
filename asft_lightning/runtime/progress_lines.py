"""ProgressLines: a line now and then in place of a bar, where there is no terminal to move one on: a log file, a job, CI."""

import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from asft_lightning.runtime.progress_bar import short, short_names

_SECONDS = 30.0
"""The least time between two lines."""
_SHARE = 0.1
"""Of all steps, after which the next line is due."""


class ProgressLines(ProgressBar):
    """Says at the first step, at the last one and now and then between them how far training is, on standard error.

    A line is due half a minute after the one before it or later: after a tenth of all steps, or when training has taken
    twice as long as it had by then. So a long run speaks soon, and no run speaks much: some 20 lines in a week.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_enabled = True
        self._first = 0
        self._began: float | None = None
        self._said: tuple[int, float] = (0, 0.0)

    def enable(self) -> None:
        """Speak."""
        self._is_enabled = True

    def disable(self) -> None:
        """Be silent: Lightning asks every rank but the first to be."""
        self._is_enabled = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count: what comes before the first batch, as scoring does, is no part of the pace."""
        if self._began is None:
            self._first, self._began = trainer.global_step, time.monotonic()
            self._say(trainer, pl_module, self._began)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far it is, where that is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now = time.monotonic()
        if trainer.global_step == _steps(trainer) or self._is_due(trainer, now):
            self._say(trainer, pl_module, now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how far it came, where that was not to the last step."""
        self._say(trainer, pl_module, time.monotonic())
        self._began = None

    def _is_due(self, trainer: Trainer, now: float) -> bool:
        (step, then), steps, began = self._said, _steps(trainer), self._began
        assert began is not None
        is_far = steps is not None and trainer.global_step - step >= _SHARE * steps
        return now - then >= _SECONDS and (is_far or now - began >= 2 * (then - began))

    def _say(self, trainer: Trainer, pl_module: LightningModule, now: float) -> None:
        """One line, unless this step has had its own."""
        step, began = trainer.global_step, self._began
        if not self._is_enabled or began is None or (self._said[0] == step > self._first):
            return
        self._said = step, now
        steps, taken, parts = _steps(trainer), now - began, []
        if done := step - self._first:
            figures = short_names(self.get_metrics(trainer, pl_module))
            parts = [f"{name} {_text(figure)}" for name, figure in figures.items()]
            parts.append(f"{_time(taken)} so far")
            if steps is not None and step < steps:
                parts.append(f"about {_time(taken / done * (steps - step))} left")
        of_all = "" if steps is None else f" of {steps}"
        sys.stderr.write(f"{', '.join([f'training: step {step}{of_all}', *parts])}\n")
        sys.stderr.flush()


def _steps(trainer: Trainer) -> int | None:
    """How many the run takes at most; None where it has no end, or its loader no length."""
    batches = trainer.num_training_batches
    known = [] if trainer.max_steps < 0 else [trainer.max_steps]
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and batches != float("inf"):
        known.append(-(-int(batches) // trainer.accumulate_grad_batches) * trainer.max_epochs)
    return min(known, default=None)


def _text(figure: Any) -> str:
    """A figure in three digits."""
    value = figure.item() if isinstance(figure, Tensor) else figure
    return short(value) if isinstance(value, float | int) else str(value)


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
