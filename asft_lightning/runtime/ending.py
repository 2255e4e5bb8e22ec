"""Ending: a SIGTERM or Ctrl-C ends all ranks of a run together, and leaves a checkpoint of whole steps."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar, cast

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _HandlersCompose
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer

from asft_lightning.errors import TrainingError
from asft_lightning.runtime.ranks import of_every_rank, on_any_rank
from asft_lightning.runtime.trainer_callbacks import callbacks_of

T = TypeVar("T")


class _BrokenOff(BaseException):
    """What this rank was at is of no use any more."""


class Ending(Callback):
    """Notes a SIGTERM or Ctrl-C while a run trains; the run ends where all ranks come to :func:`end_where_told`.

    Lightning's own handler of SIGTERM waits in a broadcast for ranks that may be in another one, for ever. And a Ctrl-C that
    is raised at any place would end one rank while another waits for it, or fall into an optimizer step, of which a
    checkpoint would then hold a half.

    SLURM's signal that a job will be requeued is noted likewise: Lightning's handler would write its checkpoint at any
    place, within an optimizer step or while another rank is in a collective. It is called where all ranks are in one place.

    It also ends a rank at once, without a checkpoint, on an error that cannot be saved: one that the other ranks know
    nothing of, for saving would have it wait for them and them for it; and one within an optimizer step.
    """

    def __init__(self) -> None:
        self.told = 0
        self.is_requeued = False
        self.is_alone = False
        self._usual: dict[int, Any] = {}
        self._stepping_batch = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand before all callbacks, which may score, and write checkpoints."""
        others = [other for other in callbacks_of(trainer, Callback) if other is not self]
        # A new list, for Lightning is going through the old one.
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]
        self._usual = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or another's
            self._usual[signal.SIGINT] = signal.default_int_handler

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in the place of Lightning, which puts back what was there before when the fit ends."""
        self.told, self.is_requeued = 0, False
        _handle(dict.fromkeys(self._usual, self._note))
        if (requeue := _requeue_signal(trainer)) is not None:
            _handle({requeue: self._note_requeue})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The weights are about to change."""
        self._stepping_batch = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before the callbacks that write checkpoints."""
        is_of_this_rank = isinstance(exception, Exception) and not isinstance(exception, TrainingError)
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        is_within_step = batches.processed < batches.ready == self._stepping_batch
        if is_within_step or (is_of_this_rank and trainer.world_size > 1):
            _handle(self._usual)
            raise exception

    def _note_requeue(self, number: int, frame: FrameType | None) -> None:
        self.is_requeued = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = max(self.told, number)  # SIGTERM, where both come
        if number == signal.SIGTERM and callable(self._usual[number]):
            self._usual[number](number, frame)
        if self.is_alone:
            self.is_alone = False
            raise _BrokenOff


def end_where_told(trainer: Trainer | None) -> None:
    """End all ranks if one was told to; every rank has to ask.

    Raises:
        KeyboardInterrupt: After a Ctrl-C.
        SIGTERMException: After a SIGTERM, on some rank at least.
    """
    if on_any_rank(trainer, _told(trainer) > 0):
        number = max(of_every_rank(_told(trainer)))
        raise KeyboardInterrupt if number == signal.SIGINT else SIGTERMException


def requeue_where_told(trainer: Trainer | None) -> None:
    """Write what a requeued job goes on from, if a rank was told so; every rank has to ask, at a training step.

    Nowhere else: within a scoring the generators of randomness are not the run's own.
    """
    if trainer is not None and on_any_rank(trainer, _is_requeued(trainer)):
        if (ending := _ending(trainer)) is not None:
            ending.is_requeued = False
        connector: Any = trainer._signal_connector
        connector._slurm_sigusr_handler_fn(signal.SIGUSR1, None)  # the number is only said


def asking(trainer: Trainer, times: int) -> Iterator[None]:
    """:func:`end_where_told` so many times, once an item; every rank has to go through all of them."""
    for _ in range(times):
        end_where_told(trainer)
        yield


def is_told(trainer: Trainer | None) -> bool:
    """Whether this rank was told to end, or that its job will be requeued."""
    return _told(trainer) > 0 or _is_requeued(trainer)


def alone(trainer: Trainer, do: Callable[[], T]) -> T:
    """The result of what no other rank takes part in, which a signal breaks off; every rank has to ask.

    Raises:
        KeyboardInterrupt: If one was told to end, as by :func:`end_where_told`.
    """
    ending, result = _ending(trainer) or Ending(), None
    try:
        ending.is_alone = True
        result = do()
        ending.is_alone = False
    except _BrokenOff:
        pass
    finally:
        ending.is_alone = False
    end_where_told(trainer)
    return cast(T, result)


def _handle(handlers: Mapping[int, Any]) -> None:
    """Off the main thread nothing can be handled."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # not one of Python's
                signal.signal(number, handler)


def _ending(trainer: Trainer) -> Ending | None:
    return next(iter(callbacks_of(trainer, Ending)), None)


def _told(trainer: Trainer | None) -> int:
    """The signal's number; 0 for none. Where a module has no Ending, Lightning listens."""
    if trainer is None:
        return 0
    ending = _ending(trainer)
    return signal.SIGTERM if trainer.received_sigterm else 0 if ending is None else ending.told


def _is_requeued(trainer: Trainer | None) -> bool:
    ending = None if trainer is None else _ending(trainer)
    return ending is not None and ending.is_requeued


def _requeue_signal(trainer: Trainer) -> int | None:
    """The signal on which Lightning would write a checkpoint and requeue the job; None where it listens to none."""
    environment = trainer._accelerator_connector.cluster_environment
    if not (isinstance(environment, SLURMEnvironment) and environment.auto_requeue) or environment.requeue_signal is None:
        return None
    number = int(environment.requeue_signal)
    return number if isinstance(signal.getsignal(number), _HandlersCompose) else None  # else the user's own is there
