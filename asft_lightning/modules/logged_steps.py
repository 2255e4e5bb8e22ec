"""LoggedSteps: what every run's steps are logged with beside their losses; nothing of it is asked between steps that log."""

from typing import Any

from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.optim import Optimizer

from asft_lightning.modules.pace import Pace
from asft_lightning.modules.trained_part import TrainedPart
from asft_lightning.runtime.gradients import gradient_norm


class LoggedSteps(TrainedPart):
    """Logs ``train/lr``, ``train/gradient_norm`` before any clipping, and ``train/tokens_per_second``."""

    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace()
        self._rate: float | None = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """After all callbacks: what they do is no part of the pace."""
        self.pace.begin(batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the learning rate and the gradient's norm."""
        if self._is_logging:
            self.log("train/lr", optimizer.param_groups[0]["lr"], prog_bar=True)
            self.log("train/gradient_norm", gradient_norm(self.trainable_parameters()))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step."""
        super().optimizer_step(*args, **kwargs)
        self.pace.mark()
        self._rate = self.pace.rate() * self.trainer.world_size if self._is_logging else None

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """Log the tokens a second since the last time, of all ranks, as if the others were as fast as this one."""
        if self._rate is not None:
            self.log("train/tokens_per_second", self._rate, prog_bar=True)
            self._rate = None

    @property
    def _is_logging(self) -> bool:
        return self.trainer._logger_connector.should_update_logs
