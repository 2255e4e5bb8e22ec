"""One run in a process of its own: how it is started, how it is ended, and why it failed."""

import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from asft_lightning.comparison.plan import Run
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import write_atomically

Launch = Callable[[list[str]], None]
"""What runs the command line on arguments: ``asft_lightning.commands.fit.launch``."""

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What moves a terminal's cursor, as progress bars do."""

_PATIENCE = 30.0
"""Seconds that a run is given to end when the comparison is ended."""


def start_run(run: Run, launch: Launch, threads: int) -> BaseProcess:
    """Begin it, with what it says in its log."""
    arguments = [*run.arguments, f"--threads={threads}"]
    write_atomically(log_of(run), f"$ asft-lightning {shlex.join(arguments)}\n")
    # A fork has all modules loaded; but CUDA cannot be used in one, nor may macOS's libraries.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" and not has_gpu() else "spawn")
    process: BaseProcess = context.Process(target=_work, args=(launch, arguments, str(log_of(run))), name=run.name)
    process.start()
    return process


def end_runs(processes: Sequence[BaseProcess]) -> None:
    """Have them end, by force where they do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        process.kill()


def log_of(run: Run) -> Path:
    """What a run says on its way, after its command line."""
    return RunFolder(run.folder).log


def reason(status: int | None, log: Path) -> str:
    """Why it failed, in one line: the last that the command line said of itself, or else the last there is."""
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}" + ("; out of memory?" if -status == signal.SIGKILL else "")
    said = _CONTROL.sub("", log.read_text(encoding="utf-8", errors="replace"))
    lines = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    of_command = [line.removeprefix("asft-lightning: ") for line in lines if line.startswith("asft-lightning: ")]
    if not status and not of_command:
        return "it ended without a summary; the report needs scores: add SafetyEvaluation to its config"
    return (of_command or lines or [f"it ended with status {status} without a word"])[-1]


def has_gpu() -> bool:
    """Whether runs are on one."""
    import torch  # a report alone needs none

    return torch.cuda.is_available()


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """While a run is started: libraries' hooks around a fork swallow a KeyboardInterrupt that comes within them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _work(launch: Launch, arguments: list[str], log: str) -> None:
    """In a process of its own: the command line, with what it says in a file."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    launch(arguments)


def _die_with(sentinel: int) -> None:
    """A run must not outlive its comparison: the next one would begin it anew in the same folder."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
