"""The command line in forks of a process that has imported everything once: seconds less a run than a process of its own.

As a program, it is that process: a line on its standard input is a run, its answers are the forks' ids and then their exit
statuses. With ``end`` a fork ends itself the n-th time that it comes to a moment.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from peft import PeftModel
from transformers.generation import GenerationMixin

from asft_lightning.callbacks.scoring_report import ScoringReport
from asft_lightning.cli import main
from asft_lightning.modules import FineTuner
from asft_lightning.runtime.checkpoint_io import WholeCheckpointIO


class Forks:
    """Runs of ``asft-lightning``, one after the other, each of one process or of several ranks.

    Args:
        folder: Of the cache, and of what the runs say: ``log``.
    """

    def __init__(self, folder):
        self.log = folder / "log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ASFT_LIGHTNING_CACHE": str(folder / "cache")}
        self.server = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def begin(self, arguments, ranks=1, end=None, copies=1):
        """Start a run; the ids of its processes. Copies of it do not know of each other, as ranks do.

        ``end`` says which of ``MOMENTS``, the how-manieth, by which signal or ``error``, and on which rank alone.
        """
        request = {"args": [str(part) for part in arguments], "log": str(self.log), "ranks": ranks, "copies": copies}
        request["end"] = end
        self.log.unlink(missing_ok=True)
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return self._answer()

    def ended(self, *expected):
        """Wait for the end of all its processes, which must be one of the statuses (negative for a signal); the first's."""
        found = self.statuses()
        assert set(found) <= {0, *expected}, self._said()
        return found[0]

    def statuses(self, within=300):
        """Wait for the end of all its processes, so many seconds at most; their statuses."""
        return self._answer(within)

    def run(self, arguments, ranks=1):
        """From start to end."""
        self.begin(arguments, ranks)
        self.ended()

    def close(self):
        """End all that runs."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(timeout=60)

    def _answer(self, within=300):
        ready, _, _ = select.select([self.server.stdout], [], [], within)
        assert ready, f"no end in sight: {self._said()}"
        line = self.server.stdout.readline()
        assert line, f"the process that forks has ended with status {self.server.wait(timeout=60)}: {self._said()}"
        return json.loads(line)

    def _said(self):
        """The end of what its processes said; they may have said nothing yet."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.is_file() else "nothing was said"


class HalfWritten:
    """A file of which half the content arrives."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = {
    "training": (FineTuner, "training_step"),
    "stepping": (torch.optim.AdamW, "step"),
    "scoring": (GenerationMixin, "generate"),
    "reporting": (ScoringReport, "publish"),
    "saving": (WholeCheckpointIO, "save_checkpoint"),
    "writing": (os, "fdopen"),
    "renaming": (Path, "replace"),
    "adapter": (PeftModel, "save_pretrained"),
}


def end_at(moment, n, how="SIGKILL", rank=None):
    if rank is not None and rank != int(os.environ.get("RANK", 0)):
        return
    owner, name = MOMENTS[moment]
    own, left = getattr(owner, name), iter(range(n))

    def counted(*args, **kwargs):
        if next(left, 0) < n - 1:
            return own(*args, **kwargs)
        setattr(owner, name, own)
        if how == "error":
            raise RuntimeError("ended")
        if (moment, how) == ("writing", "SIGKILL"):
            return HalfWritten(own(*args, **kwargs))
        os.kill(os.getpid(), signal.Signals[how])
        return own(*args, **kwargs)

    setattr(owner, name, counted)


def become_rank(rank, ranks, port):
    """As torchrun starts it."""
    settings = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forks"}  # fmt: skip
    os.environ.update({name: str(value) for name, value in settings.items()})


def run(request):
    """In the fork: never returns."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request["end"]:
        end_at(*request["end"])
    status = 1
    try:
        main(request["args"])
        status = 0
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def free_port():
    """One that nothing listens on, of those that no system hands out by itself between now and its use."""
    draw = random.Random(os.urandom(8))
    while True:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", port))
            return port


def wait_until(is_so, seconds=300):
    """Look again and again; what does not come fails the test."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def fork(request, rank, port):
    pid = os.fork()
    if pid == 0:
        if request["ranks"] > 1:
            become_rank(rank, request["ranks"], port)
        run(request)
    return pid


def answer(numbers):
    sys.stdout.write(f"{json.dumps(numbers)}\n")
    sys.stdout.flush()


def serve():
    for line in sys.stdin:
        request, port = json.loads(line), free_port()
        pids = [fork(request, rank, port) for _ in range(request["copies"]) for rank in range(request["ranks"])]
        answer(pids)
        answer([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])


if __name__ == "__main__":
    serve()
