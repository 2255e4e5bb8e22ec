"""Ranks that end together: none may wait for one that has gone."""

from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.errors import TrainingError


class EndTogether(Callback):
    """Ends a rank at once on an error that the other ranks know nothing of.

    ``ModelCheckpoint(save_on_exception=True)`` would have it wait for the others to save together, and those wait for it
    to go on training. What comes to every rank, as Ctrl-C, SIGTERM and a loss that is no number, is saved together.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before the callbacks that write checkpoints, which Lightning puts last."""
        if trainer.world_size > 1 and isinstance(exception, Exception) and not isinstance(exception, TrainingError):
            raise exception


def on_any_rank(trainer: Trainer | None, here: bool) -> bool:
    """Whether something is so on some rank; each must ask."""
    return here if trainer is None else trainer.strategy.reduce_boolean_decision(here, all=False)
