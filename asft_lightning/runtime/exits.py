"""How the command line ends: one line that says why, and an exit status; a traceback only for a fault of this package."""

import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from asft_lightning.errors import error_of_ours
from asft_lightning.runtime.files import unwritable
from asft_lightning.runtime.plain import plain, plain_channels

NO_CHECKPOINT = "it has written no checkpoint to go on from"
"""Noted on what ended such a run."""
GO_ON = "; with --ckpt_path auto it goes on from the last checkpoint"
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""A disk that is full or must not be written to, where the file is not one of ours: a logger's, a config."""


# What third parties say on every run, that a user of this package can do nothing about.
_NOISE = (
    ".*does not have many workers.*",  # rows are token ids already: workers would only cost
    ".*is_gradient_checkpointing.* is deprecated.*",  # PEFT asking Transformers
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning asking torch
    ".*Checkpoint directory .* exists and is not empty.*",  # one run folder without version numbers, on purpose
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*overridden `on_before_batch_transfer` in `LightningModule` but.*",  # as it should be
    ".*args parameter is intended to run from within Python.*",  # commands are told their arguments
    ".*Total length of `list` across ranks is zero.*",  # no validation rows were asked for
)


_IDLE_LOGS = (
    "\U0001f4a1 Tip:",  # an advertisement
    "TPU available: False",
    "Loading `train_dataloader` to estimate",
    "Failed to load CPU gemm_4bit_forward",  # bitsandbytes, of an optional kernel, in runs without 4 bits too
)
"""What logs begin with that say nothing a user could act on."""


class Exit(NamedTuple):
    """What to say, and the exit status."""

    message: str
    status: int


@contextmanager
def without_noise() -> Iterator[None]:
    """Inside, third parties do not say what a user can do nothing about."""
    for logger in ("lightning.pytorch.utilities.rank_zero", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(logger).addFilter(_is_of_use)
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def ending_in_one_line(go_on: str = GO_ON) -> Iterator[None]:
    """Run a command: without third parties' noise, and where it fails with one line and an exit status.

    Args:
        go_on: How to go on where the command was ended; blank where it cannot.
    """
    try:
        with without_noise(), plain_channels():
            yield
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        end = explain(error, go_on)
        if end is None:
            raise
        if end.status == 128 + signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not break off what is left to do
        sys.stderr.write(f"asft-lightning: {plain(end.message)}\n")
        sys.exit(end.status)


def explain(error: BaseException, go_on: str = GO_ON) -> Exit | None:
    """How to end on an error; None where a traceback is due.

    Args:
        error: What was raised.
        go_on: How to go on where a run was ended.
    """
    if NO_CHECKPOINT in getattr(error, "__notes__", ()):
        go_on = f"; {NO_CHECKPOINT}"
    if isinstance(error, _loaded("lightning.pytorch.utilities.exceptions", "SIGTERMException")):
        return Exit(f"ended by SIGTERM{go_on}", 128 + signal.SIGTERM)
    # Lightning writes its checkpoints on Ctrl-C, ignores a second one meanwhile, and leaves with status 1.
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    ):
        return Exit(f"ended by Ctrl-C{go_on}", 128 + signal.SIGINT)
    cause: BaseException | None = error
    while cause is not None:  # jsonargparse wraps what a class says when it is made
        if isinstance(cause, _loaded("lightning.fabric.utilities.exceptions", "MisconfigurationException")):
            return Exit(str(cause), 2)  # Lightning's word for a user's mistake
        cause = cause.__cause__
    return _of_the_machine(error, go_on) or _of_the_user(error)


def _of_the_machine(error: BaseException, go_on: str) -> Exit | None:
    if isinstance(error, _loaded("torch.distributed", "DistError")) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    ):
        return Exit(f"another rank of this run is gone: what it said last stands above, or it was killed{go_on}", 1)
    if _is_lack_of_memory(error):
        reason = " ".join(str(error).split())[:120]
        return Exit(
            f"memory must hold the model and a batch, and is full ({reason}). Begin anew with a lower batch size or "
            f"template.max_length, or set model.gradient_checkpointing true{go_on}",
            1,
        )
    return None


def _of_the_user(error: BaseException) -> Exit | None:
    mistake = error_of_ours(error) if isinstance(error, ValueError) else None
    if mistake is None and isinstance(error, ValueError | RuntimeError) and _is_raised_by_lightning(error):
        return Exit(f"Lightning says: {' '.join(str(error).split())}", 2)
    if isinstance(error, OSError) and error.errno in _STORAGE:
        mistake = unwritable(error.filename or "the run's folder", error)
    return None if mistake is None else Exit(str(mistake), 2)


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, _loaded("torch", "OutOfMemoryError"))):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's word on a CPU


def _is_raised_by_lightning(error: BaseException) -> bool:
    """Whether a line of Lightning's own raised it: it speaks of settings there."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and f"{os.sep}lightning{os.sep}" in frames[-1].filename


def _loaded(module: str, name: str) -> type | tuple[()]:
    """A class of a module that has been imported: an error cannot be of one that has not, and may come in an import."""
    return getattr(sys.modules.get(module), name, ())


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_IDLE_LOGS)
