"""Locks on files, which end with the process that has them, however it ends."""

import errno
import os
import sys
import time
from pathlib import Path
from typing import IO
from weakref import WeakSet

from asft_lightning.errors import ConfigurationError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""How a file system says that it has none."""
_GLANCE = 1.0
"""Seconds that another may have a file who only looks whether a living process has it."""
_locked: WeakSet[IO[bytes]] = WeakSet()


def lock(file: IO[bytes] | int, path: Path, patience: float = _GLANCE) -> bool:
    """Have a file for this process until it closes it or ends; False where there are no locks.

    Args:
        file: Open.
        path: Its name, or that of what it stands for, for the error.
        patience: Seconds to wait for another process; 0 for one who only looks.

    Raises:
        ConfigurationError: If another process has it; names ``path``.
    """
    if sys.platform == "win32":
        return False
    try:
        _wait_for(file, patience)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{path} is one process's at a time, and another is at work there. Wait for it, or name another folder."
        ) from error
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return False
    if not isinstance(file, int):
        _locked.add(file)
    return True


def _wait_for(file: IO[bytes] | int, patience: float) -> None:
    import fcntl

    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def is_locked(path: Path) -> bool:
    """Whether another process has a file, as far as locks can tell."""
    try:
        with path.open("r+b") as file:
            lock(file, path, patience=0.0)
    except ConfigurationError:
        return True
    except FileNotFoundError:
        pass
    return False


def _let_go() -> None:
    for file in _locked:
        file.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)  # a worker may outlive its parent, and must not keep what that had locked
