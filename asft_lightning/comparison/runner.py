"""Runner: runs that are missing, several at once, each claimed before, so that other processes may do the rest."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from tqdm import tqdm

from asft_lightning.comparison.claims import DONE, FAILED, LET_GO, PATIENCE, Claim, Claims
from asft_lightning.comparison.plan import Run
from asft_lightning.comparison.results import is_done
from asft_lightning.comparison.run_process import Launch, ctrl_c_waits, end_runs, has_gpu, log_of, reason, start_run
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.plain import plain

_POLL = 1.0
"""Seconds between looks at what other processes have done."""


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


@dataclass(frozen=True)
class _Active:
    """A run that is at work."""

    run: Run
    claim: Claim
    process: BaseProcess


class RunsBar(tqdm):  # type: ignore[misc]
    """A bar over the whole comparison with the time left; without tqdm's thread, which a fork would not take along."""

    monitor_interval = 0

    def skip(self, count: int) -> None:
        """What took no time of this process now says nothing of the time left."""
        self.n += count
        self.initial += count


class Runner:
    """Runs what is not done yet, and keeps account of what failed.

    Args:
        launch: The command line.
        claims: What is shared with other processes.
        jobs: Runs at once; None for one a core (divided by ``threads``), or one where there is a GPU.
        threads: CPU threads a run.
        progress: Moved on by one for each run that is done or failed.
    """

    def __init__(self, launch: Launch, claims: Claims, jobs: int | None, threads: int, progress: RunsBar) -> None:
        self.launch = launch
        self.claims = claims
        self.jobs = jobs
        self.threads = threads
        self.progress = progress
        self.failures: dict[str, Failure] = {}
        self._over: set[str] = set()
        self._has_said = False

    def run(self, runs: Iterable[Run]) -> None:
        """Run what is missing, each once and after what it needs; return when all have ended, failed ones in ``failures``.

        What another process is at work on is waited for, and run here where that one dies.
        """
        jobs = self.jobs or (1 if has_gpu() else max(1, (os.cpu_count() or 1) // self.threads))
        waiting = [run for run in with_needs(runs) if run.name not in self._over]
        self._over |= {run.name for run in waiting}  # when this returns
        active: dict[int, _Active] = {}
        try:
            while waiting or active:
                with ctrl_c_waits():
                    while len(active) < jobs and (begun := self._begin(waiting, [one.run for one in active.values()])):
                        active[begun.process.sentinel] = begun
                if waiting and not active:
                    self._say_waiting(len(waiting))
                for sentinel in wait(list(active), timeout=_POLL if waiting or active else 0.0):
                    assert isinstance(sentinel, int)
                    self._ended(active.pop(sentinel))
                for sentinel in [sentinel for sentinel, begun in active.items() if not begun.claim.keep()]:
                    waiting.append(self._lost(active.pop(sentinel)))
                if sys.stderr.isatty():
                    self.progress.refresh()  # the time left, also while nothing ends
        finally:
            end_runs([begun.process for begun in active.values()])
            for begun in active.values():
                begun.claim.end(LET_GO)

    def _begin(self, waiting: list[Run], at_work: list[Run]) -> _Active | None:
        """Start the first that nobody is at work on and whose needs are over; what is over is taken off the list."""
        for run in list(waiting):
            if run.needs and {need.name for need in run.needs} & {other.name for other in [*waiting, *at_work]}:
                continue
            if self._is_over(run):
                waiting.remove(run)
                self.progress.skip(1)
            elif claim := self.claims.take(run.folder):
                if is_done(run):  # between the first look and the claim
                    claim.end(LET_GO)
                    continue
                process = start_run(run, self.launch, self.threads)
                waiting.remove(run)
                return _Active(run, claim, process)
        return None

    def _is_over(self, run: Run) -> bool:
        """Whether it is done, here or elsewhere, or hopeless, of which it is noted."""
        if damaged := failure_of_summary(run):
            self._fail(run, damaged.reason, damaged.log)
            return True
        if is_done(run):
            return True
        if missing := next((need for need in run.needs if not is_done(need)), None):
            before = self.failures.get(missing.name)
            self._fail(run, f"{missing.name}, which it needs, failed", before.log if before else str(log_of(missing)))
            return True
        if run.checkpoint and not run.checkpoint.is_file():
            folder = run.checkpoint.parents[1]
            why = (
                f"{run.checkpoint}, which it goes on from, is gone, or was never written (trainer.enable_checkpointing, "
                f"or a ModelCheckpoint without save_last). Remove {folder}, and that run is trained anew"
            )
            self._fail(run, why, str(RunFolder(folder).log))
            return True
        if failure := self.claims.failure(run.folder):
            self._fail(run, failure, str(log_of(run)))
        return failure is not None

    def _ended(self, ended: _Active) -> None:
        run, process = ended.run, ended.process
        process.join()
        failure = None if is_done(run) else reason(process.exitcode, log_of(run))
        ended.claim.end(DONE if failure is None else FAILED + failure)
        if failure is not None:
            self._fail(run, failure, str(log_of(run)))
        elif process.exitcode:
            self.progress.write(plain(f"{run.name}: done, but it ended with status {process.exitcode}, see {log_of(run)}"))
        self.progress.update()

    def _say_waiting(self, count: int) -> None:
        if not self._has_said:
            others = "1 run that another process has" if count == 1 else f"{count} runs that other processes have"
            self.progress.write(f"waiting for {others}; a dead one's is taken over after {PATIENCE:.0f} seconds at most")
        self._has_said = True

    def _lost(self, lost: _Active) -> Run:
        """Leave it to the process that has taken it over, since this one gave no sign of life."""
        self.progress.write(plain(f"{lost.run.name}: another process has taken it over, since this one stood still"))
        lost.process.kill()
        lost.process.join()
        lost.claim.end(LET_GO)
        return lost.run

    def _fail(self, run: Run, why: str, log: str) -> None:
        self.failures[run.name] = Failure(run.name, why, log)
        self.progress.write(plain(f"failed: {run.name}: {why}"))


def with_needs(runs: Iterable[Run]) -> list[Run]:
    """Each once, after what it needs."""
    every: dict[str, Run] = {}
    for run in runs:
        every |= {one.name: one for one in [*with_needs(run.needs), run]}
    return list(every.values())


def failure_of_summary(run: Run) -> Failure | None:
    """Why what the run measured cannot be read; such a run is neither reported nor made anew over what is there."""
    try:
        Summary.read(RunFolder(run.folder))
    except ConfigurationError as error:
        return Failure(run.name, str(error), str(log_of(run)))
    return None
