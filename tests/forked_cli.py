"""Runs the command line in forks of a process that has imported everything once; asked by lines on its standard input.

A line is {"args": [...], "log": file, "kill": [moment, n] or null}; the answer is the fork's process id, and later its exit
status. With ``kill`` the fork ends itself with SIGKILL the n-th time that it comes to that moment.
"""

import json
import os
import signal
import sys
from pathlib import Path

from transformers.generation import GenerationMixin

from asft_lightning.cli import main


def die():
    os.kill(os.getpid(), signal.SIGKILL)


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
        die()


MOMENTS = {
    "writing": (os, "fdopen", lambda made, *_: HalfWritten(made)),
    "renaming": (Path, "replace", None),
    "scoring": (GenerationMixin, "generate", None),
}


def kill_at(moment, n):
    owner, name, instead = MOMENTS[moment]
    own, count = getattr(owner, name), iter(range(1, n + 1))

    def counted(*args, **kwargs):
        if next(count, 0) < n:
            return own(*args, **kwargs)
        return die() if instead is None else instead(own(*args, **kwargs))

    setattr(owner, name, counted)


def run(request):
    """In the fork: never returns."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request["kill"]:
        kill_at(*request["kill"])
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


def answer(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run(json.loads(line))
    answer(pid)
    answer(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
