"""WholeSteps: a Ctrl-C does not fall into an optimizer step, so that a checkpoint never holds half of one."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class WholeSteps(Callback):
    """Puts a Ctrl-C off from where the optimizer begins to change weights until Lightning has counted the step.

    A run that is ended writes a checkpoint. In between it would hold some factors of before the step and some of after it,
    or a step that is not counted and would be taken twice. The loss, the longest part of a step, may be broken off, and so
    may what callbacks do after the step.
    """

    def __init__(self) -> None:
        self._usual: Callable[[int, FrameType | None], Any] | None = None
        self._interrupt: tuple[int, FrameType | None] | None = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The weights are about to change; does nothing off the main thread, or where Ctrl-C is ignored."""
        usual = signal.getsignal(signal.SIGINT)
        if self._usual is None and callable(usual) and threading.current_thread() is threading.main_thread():
            batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current

            def put_off(number: int, frame: FrameType | None) -> None:
                self._interrupt = (number, frame)
                if batches.processed == batches.started:  # callbacks are at work
                    self._end_step()

            self._usual = usual
            signal.signal(signal.SIGINT, put_off)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is counted; a Ctrl-C that came meanwhile comes now."""
        self._end_step()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The step has failed, and the run ends anyway."""
        self._interrupt = None
        self._end_step()

    def _end_step(self) -> None:
        if self._usual is None:
            return
        usual, interrupt = self._usual, self._interrupt
        self._usual = self._interrupt = None
        signal.signal(signal.SIGINT, usual)
        if interrupt is not None:
            usual(*interrupt)
