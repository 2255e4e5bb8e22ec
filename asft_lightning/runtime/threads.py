"""CPU threads: how they wait for each other, and how many a run takes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COUNT = "OMP_NUM_THREADS"
_WAITING = "OMP_WAIT_POLICY"
SAID_OTHERWISE = (_WAITING, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How a user says how threads wait."""


def wait_asleep() -> None:
    """Have threads sleep while they wait for each other, unless the user says otherwise; for the command line's process.

    By default OpenMP has them spin for milliseconds, and a training step has thousands of such waits. Where another
    process has one of the cores, each is a turn of that process lost: docs/speed.md has figures. What is computed stays the
    same to the last bit. OpenMP reads this when torch is loaded; after that nothing is done.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in SAID_OTHERWISE):
        os.environ[_WAITING] = "passive"


def how_they_wait() -> str:
    """What this process was told of it, as a user would."""
    return ", ".join(f"{name}={os.environ[name]}" for name in SAID_OTHERWISE if name in os.environ) or "OpenMP's default"


def take_threads(count: int) -> None:
    """Compute on so many.

    Args:
        count: Threads; also of each of several ranks, to which Lightning would otherwise give a share of the cores.
    """
    import torch

    torch.set_num_threads(count)
    os.environ[COUNT] = str(count)


@contextmanager
def threads_as_found() -> Iterator[None]:
    """After what runs inside, threads are as many as before."""
    import torch

    count, said = torch.get_num_threads(), os.environ.get(COUNT)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        if said is None:
            os.environ.pop(COUNT, None)
        else:
            os.environ[COUNT] = said
