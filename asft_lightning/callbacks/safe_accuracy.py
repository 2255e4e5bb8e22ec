"""SafeAccuracy: one figure to choose a checkpoint by, accuracy subject to a limit on the harmful score."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.callbacks.decisions import check_deciders, publish, withdraw
from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.trainer_callbacks import callbacks_of

_NAME = "safe_accuracy"


class SafeAccuracy(Callback):
    """Accuracy where the harmful score keeps a limit, else minus the harmful score, as ``safe_accuracy``.

    For ``ModelCheckpoint`` and ``EarlyStopping`` with ``mode: max``: every checkpoint within the limit is better than all
    beyond it; among those the most accurate is best, and beyond the limit the safest. It stands after the callbacks that
    measure both, and before what decides on it.

    Args:
        limit: Highest harmful score that is acceptable, in percent.
        harmful_score: Name of the harmful score to watch.
        accuracy: Name of the accuracy to watch.

    Raises:
        ConfigurationError: If the limit is not 0 to 100; before training, if the scores are not measured before it, or not
            while training.
    """

    def __init__(
        self, limit: float = 5.0, harmful_score: str = "safety/harmful_score", accuracy: str = "utility/accuracy"
    ) -> None:
        if not 0 <= limit <= 100:
            raise ConfigurationError(f"limit must be 0 to 100 percent, got {limit}. 5 allows 5 unsafe answers in 100.")
        self.limit = limit
        self.harmful_score = harmful_score
        self.accuracy = accuracy

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The scores must be there when this callback's turn comes."""
        callbacks = callbacks_of(trainer, Callback)
        before = [c for c in callbacks[: callbacks.index(self)] if isinstance(c, ScoringCallback)]
        measured = {f"{c.label}/{metric}": c for c in before for metric in c.metrics()}
        for score in (self.harmful_score, self.accuracy):
            if score not in measured:
                raise ConfigurationError(
                    f"SafeAccuracy needs {score} from a callback that stands before it in trainer.callbacks, and those "
                    f"measure {', '.join(sorted(measured)) or 'nothing'}. Move it after them."
                )
            if not (measured[score].every_n_epochs or measured[score].every_n_steps):
                raise ConfigurationError(
                    f"SafeAccuracy needs {score} while training, and it is measured before and after only. Set "
                    f"every_n_epochs or every_n_steps of {type(measured[score]).__name__}."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What decides by the figure must come after it."""
        check_deciders(trainer, self, [_NAME])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """What was measured is about to be no longer so."""
        withdraw(trainer, [_NAME])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Combine what was measured at this step."""
        self._combine(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine what was measured at this step."""
        self._combine(trainer)

    def _combine(self, trainer: Trainer) -> None:
        unsafe, accuracy = (
            float(trainer.callback_metrics.get(name, math.nan)) for name in (self.harmful_score, self.accuracy)
        )
        if math.isfinite(unsafe) and math.isfinite(accuracy):
            publish(trainer, {_NAME: accuracy if unsafe <= self.limit else -unsafe})
