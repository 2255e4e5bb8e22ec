"""FinishingFitLoop: a run that goes on after its last step still does what is done at the end."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loops.fit_loop import _FitLoop

from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.trainer_callbacks import callbacks_of


class FinishingFitLoop(_FitLoop):
    """Lightning's fit loop, which leaves out ``on_train_start`` and ``on_train_end`` where no step is left.

    A run that was ended in its final scoring, or while its adapter was written, would never get them. And it forgets that a
    run had been stopped early, and would go on with it.
    """

    @property
    def skip(self) -> bool:
        """Whether there is nothing to do, for steps are not, and the run came to its end."""
        if self.is_resuming and any(map(_has_stopped, callbacks_of(self.trainer, EarlyStopping))):
            self.trainer.should_stop = True
        if not super().skip:
            return False
        is_to_finish = self.is_resuming and self.done and not Summary.read(RunFolder.of(self.trainer)).run.ended
        return not self.trainer.strategy.broadcast(is_to_finish)  # of the first rank, whose folder it is


def _has_stopped(stopping: EarlyStopping) -> bool:
    return stopping.stopped_epoch > 0 or stopping.wait_count >= stopping.patience


def finish_what_is_left(trainer: Trainer) -> None:
    """Have a trainer's fit do so."""
    if type(trainer.fit_loop) is _FitLoop:
        trainer.fit_loop.__class__ = FinishingFitLoop
