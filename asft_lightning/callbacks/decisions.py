"""What Lightning's callbacks may decide by a score: only one that was measured at this very step."""

from collections.abc import Collection

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.trainer_callbacks import callbacks_of


def check_deciders(trainer: Trainer, scorer: Callback, scores: Collection[str]) -> None:
    """Refuse callbacks that would decide by a score before it is measured, or stop where it could not be.

    Raises:
        ConfigurationError: If an ``EarlyStopping`` on one of ``scores`` stands before ``scorer`` or is ``strict``, or a
            ``ModelCheckpoint`` saves when validation ends, which is before scores are measured.
    """
    callbacks = callbacks_of(trainer, Callback)
    for callback in callbacks:
        if not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor not in scores:
            continue
        what = f"{type(callback).__name__} on {callback.monitor}"
        if isinstance(callback, ModelCheckpoint):
            if not callback._should_save_on_train_epoch_end(trainer) and not callback._every_n_train_steps:
                raise ConfigurationError(
                    f"{what} must save when an epoch ends, after scoring, and saves when validation ends. Set its "
                    "save_on_train_epoch_end to true."
                )
        elif callbacks.index(callback) < callbacks.index(scorer):
            raise ConfigurationError(
                f"{what} must stand after {type(scorer).__name__} in trainer.callbacks, and stands before it. Move it to "
                "the end of the list."
            )
        elif callback.strict:
            raise ConfigurationError(
                f"{what} must not be strict, or a score that is not measured at some epoch, or whose judge fails, would end "
                "the run with an error. Set its strict to false."
            )


def publish(trainer: Trainer, scores: dict[str, float]) -> None:
    """Let callbacks see scores, until :func:`withdraw`."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scores.items()})


def withdraw(trainer: Trainer, scores: Collection[str]) -> None:
    """Take scores back that are no longer those of the weights.

    Where validation runs, a ``ModelCheckpoint`` ends the run with an error if its score is absent: to it alone the score
    is then the worst there is.
    """
    for name in scores:
        trainer.callback_metrics.pop(name, None)
    batches = trainer.num_val_batches
    if scores and sum(batches if isinstance(batches, list) else [batches]):
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor in scores:
                worst = float("inf") if callback.mode == "min" else -float("inf")
                trainer.callback_metrics[str(callback.monitor)] = torch.tensor(worst)
