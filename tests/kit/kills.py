"""Forks of this process that end by SIGKILL where a test says, and what they hold while they live."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

STEPS = [(os, "open"), (os, "fdopen"), (os, "fsync"), (Path, "mkdir"), (Path, "open"), (Path, "rename"), (Path, "replace")]
"""What writing, renaming and moving come down to. The real thing runs until the kill."""


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _counted(real, left):
    def call(*args, **kwargs):
        return die() if next(left, None) is None else real(*args, **kwargs)

    return call


def ends(do, steps=None):
    """Do it in a fork that is killed before the step of this number; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        if steps is not None:
            left = iter(range(steps))
            for owner, name in STEPS:
                setattr(owner, name, _counted(getattr(owner, name), left))
        try:
            do()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


@contextmanager
def another(hold):
    """A fork that is within the context ``hold`` while this block runs, then leaves it."""
    (ready, begun), (wait, end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        with hold:
            os.write(begun, b"1")
            os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    os.read(ready, 1)
    try:
        yield pid
    finally:
        os.close(end)
        os.waitpid(pid, 0)
