"""Runner: runs that are missing, several at once, in processes of their own that need not import anything again."""

import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asft_lightning.comparison.plan import Run
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.files import write_atomically
from asft_lightning.runtime.plain import plain

Launch = Callable[[list[str]], None]
"""What runs the command line on arguments: ``asft_lightning.commands.fit.launch``."""

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What moves a terminal's cursor, as progress bars do."""

_PATIENCE = 30.0
"""Seconds that a run is given to end when the comparison is ended."""


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end.

    Args:
        run: The run's name.
        reason: Why, in one line.
        log: What it said.
    """

    run: str
    reason: str
    log: str


class RunsBar(tqdm):  # type: ignore[misc]
    """A bar over the whole comparison with the time left; without tqdm's thread, which a fork would not take along."""

    monitor_interval = 0

    def skip(self, count: int) -> None:
        """What took no time now says nothing of the time left."""
        self.n += count
        self.initial += count


class Runner:
    """Runs what is not done yet, and keeps account of what failed.

    Args:
        launch: The command line.
        jobs: Runs at once; None for one a core (divided by ``threads``), or one where there is a GPU.
        threads: CPU threads a run.
        progress: Moved on by one for each run that is done or failed.
    """

    def __init__(self, launch: Launch, jobs: int | None, threads: int, progress: RunsBar) -> None:
        self.launch = launch
        self.jobs = jobs
        self.threads = threads
        self.progress = progress
        self.failures: dict[str, Failure] = {}

    def run(self, runs: Iterable[Run]) -> None:
        """Run what is missing, each once; return when all have ended, failed ones noted in ``failures``."""
        jobs = self.jobs or (1 if _has_gpu() else max(1, (os.cpu_count() or 1) // self.threads))
        queue = list({run.name: run for run in runs}.values())
        waiting = [run for run in queue if not (is_done(run) or self._is_hopeless(run))]
        self.progress.skip(len(queue) - len(waiting))
        active: dict[int, tuple[BaseProcess, Run]] = {}
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    with _ctrl_c_waits():
                        process = self._start(waiting[0])
                        active[process.sentinel] = (process, waiting.pop(0))
                for sentinel in wait(list(active), timeout=1.0):
                    assert isinstance(sentinel, int)
                    self._ended(*active.pop(sentinel))
                if sys.stderr.isatty():
                    self.progress.refresh()  # the time left, also while nothing ends
        finally:
            _end([process for process, _ in active.values()])

    def _is_hopeless(self, run: Run) -> bool:
        """Whether it is damaged, or its first step failed, of which it is noted."""
        if damaged := failure_of_summary(run):
            self._fail(run, damaged.reason, damaged.log)
            return True
        if run.first is None or is_done(run.first):
            return False
        before = self.failures.get(run.first.name)
        self._fail(run, f"its first step {run.first.name} failed", before.log if before else str(log_of(run.first)))
        return True

    def _start(self, run: Run) -> BaseProcess:
        arguments = [*run.arguments, f"--threads={self.threads}"]
        write_atomically(log_of(run), f"$ asft-lightning {shlex.join(arguments)}\n")
        # A fork has all modules loaded; but CUDA cannot be used in one, nor may macOS's libraries.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" and not _has_gpu() else "spawn")
        work = (self.launch, arguments, str(log_of(run)))
        process: BaseProcess = context.Process(target=_work, args=work, name=run.name)
        process.start()
        return process

    def _ended(self, process: BaseProcess, run: Run) -> None:
        process.join()
        if not is_done(run):
            self._fail(run, _reason(process.exitcode, log_of(run)), str(log_of(run)))
        elif process.exitcode:
            self.progress.write(plain(f"{run.name}: done, but it ended with status {process.exitcode}, see {log_of(run)}"))
        self.progress.update()

    def _fail(self, run: Run, reason: str, log: str) -> None:
        self.failures[run.name] = Failure(run.name, reason, log)
        self.progress.write(plain(f"failed: {run.name}: {reason}"))


def _has_gpu() -> bool:
    import torch  # a report alone needs none

    return torch.cuda.is_available()


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """While a run is started: libraries' hooks around a fork swallow a KeyboardInterrupt that comes within them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def is_done(run: Run) -> bool:
    """Whether the run came to its end, as its summary says."""
    try:
        return bool(Summary.read(RunFolder(run.folder)).run.ended)
    except ConfigurationError:
        return False


def failure_of_summary(run: Run) -> Failure | None:
    """Why what the run measured cannot be read; such a run is neither reported nor made anew over what is there."""
    try:
        Summary.read(RunFolder(run.folder))
    except ConfigurationError as error:
        return Failure(run.name, str(error), str(log_of(run)))
    return None


def log_of(run: Run) -> Path:
    """What a run says on its way, after its command line."""
    return RunFolder(run.folder).log


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


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        process.kill()


def _reason(status: int | None, log: Path) -> str:
    """One line: the last that the command line said of itself, or else the last there is."""
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}" + ("; out of memory?" if -status == signal.SIGKILL else "")
    said = _CONTROL.sub("", log.read_text(encoding="utf-8", errors="replace"))
    lines = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    of_command = [line.removeprefix("asft-lightning: ") for line in lines if line.startswith("asft-lightning: ")]
    if not status and not of_command:
        return "it ended without a summary; the report needs scores: add SafetyEvaluation to its config"
    return (of_command or lines or [f"it ended with status {status} without a word"])[-1]
