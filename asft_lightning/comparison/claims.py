"""Claims: which of several processes, on one machine or on many that share a folder, has a run.

A claim is a file in the run's folder. Who makes ``.claim-0`` has the run; of several that try, one can. Claims
are never removed, for another process may be about to judge one. Whoever finds the owner dead makes ``.claim-1``, and so on.
"""

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from asft_lightning.errors import StorageError
from asft_lightning.runtime.files import LOCK, append, writing
from asft_lightning.runtime.locks import is_locked, lock

PATIENCE = 120.0
"""Seconds without a sign of life after which an owner on another machine is dead. Network file systems show changes late, by
up to a minute as they are usually mounted."""

_BEAT = 10.0
"""Seconds between an owner's signs of life."""
_NAME = ".claim-"

DONE, LET_GO, FAILED = "done", "let go", "failed: "
"""How a claim ends: the run has, or has not, or why it never will."""


@dataclass
class Claim:
    """A run that this process has; its file's first line says which process on which machine, its second how it ended.

    Args:
        path: Of the file.
        file: The same, open and locked; forks let go of it.
        clock: Seconds.
    """

    path: Path
    file: IO[bytes]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._beaten = self.clock()

    def keep(self) -> bool:
        """Give a sign of life where one is due; False where another process has taken the run over."""
        if self.clock() - self._beaten >= _BEAT:
            self._beaten = self.clock()
            with suppress(OSError):  # a share may be away for a moment
                os.utime(self.path)
        return not _next(self.path).exists()

    def end(self, how: str) -> None:
        """Let others have the run.

        Args:
            how: ``DONE``, ``LET_GO``, or ``FAILED`` and why.
        """
        with self.file, suppress(StorageError):  # that it is over shows without it, a little later
            append(self.path, f"{' '.join(how.splitlines())}\n")


class Claims:
    """What this process may claim. It compares no clocks: others' signs of life are timed by its own.

    Args:
        folder: Of the runs. Failures that it tells of now are of earlier starts.
        machine: Where this process is; what locks say counts between processes of one machine alone.
        clock: Seconds.
    """

    def __init__(self, folder: Path, machine: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.machine = _machine() if machine is None else machine
        self.clock = clock
        self._earlier = {path for path in folder.glob(f"*/{_NAME}*") if _lines(path)[1:]}
        self._seen: dict[Path, tuple[int, float]] = {}

    def take(self, folder: Path) -> Claim | None:
        """Claim a run's folder; None where another process has it.

        Raises:
            StorageError: If it cannot be written.
        """
        latest = _latest(folder)
        if (latest and not self._is_over(latest)) or is_locked(folder / LOCK):  # a run may outlive its owner by a moment
            return None
        path = _next(latest) if latest else folder / f"{_NAME}0"
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                file = path.open("xb", buffering=0)
            except FileExistsError:
                return None
            has_locks = lock(file, path)
            append(path, f"{os.getpid()} on {self.machine}{'' if has_locks else ', without locks'}\n")
        return Claim(path, file, self.clock)

    def failure(self, folder: Path) -> str | None:
        """Why another process's run failed, since this one was started."""
        latest = _latest(folder)
        if latest is None or latest in self._earlier:
            return None
        *_, last = "", *_lines(latest)
        return last.removeprefix(FAILED) if last.startswith(FAILED) else None

    def _is_over(self, path: Path) -> bool:
        """Whether the claim's owner let it go, or is dead."""
        owner, *ended = _lines(path) or [""]
        if ended or owner.endswith(f" on {self.machine}"):
            return bool(ended) or not is_locked(path)
        try:
            with path.open("rb") as file:  # a file that is opened is looked at anew on network file systems
                beat = os.fstat(file.fileno()).st_mtime_ns
        except OSError:  # removed meanwhile, or the share is away
            return False
        seen, since = self._seen.get(path, (None, 0.0))
        if beat != seen:
            self._seen[path] = (beat, self.clock())
            return False
        return self.clock() - since > PATIENCE


def _machine() -> str:
    """This machine since it was started: within it locks are to be trusted."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        start = ""
    return f"{platform.node()} {start}"


def _number(path: Path) -> int:
    return int(path.name.removeprefix(_NAME))


def _next(path: Path) -> Path:
    return path.with_name(f"{_NAME}{_number(path) + 1}")


def _latest(folder: Path) -> Path | None:
    claims = [path for path in folder.glob(f"{_NAME}*") if path.name.removeprefix(_NAME).isdecimal()]
    return max(claims, key=_number, default=None)


def _lines(path: Path) -> list[str]:
    """Whole lines: half of one is still being written."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0].splitlines()
    except OSError:
        return []
