"""A training step whose CPU threads sleep while they wait for each other, as on our command line, beside spinning ones."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

import torch
from figures import Figure

from asft_lightning import LoRAFineTuner, Pretrained
from asft_lightning.modules.ready_batch import ready

_BATCH, _TOKENS, _ANSWER = 8, 64, 8
_STEP_SECONDS = 5.0
"""How long a process takes steps for, and no fewer than three."""


def measure(repeats: int, device: str, model: str, rows: Path) -> Iterator[Figure]:
    """Alone and beside a process that keeps one core busy; processes in turns, for OpenMP reads its settings once."""
    count = os.cpu_count() or 1
    for name in ("sandbox:aligned", model):
        for is_busy in (False, True):
            with _busy_core() if is_busy else nullcontext():
                turns = [[_process(name, count, waiting) for waiting in ("passive", None)] for _ in range(repeats)]
                one = median(_process(name, 1, None) for _ in range(repeats))
            asleep, spinning = (median(times) for times in zip(*turns, strict=True))
            what = f"a step of {name}, {count} threads" + (" beside a busy core" if is_busy else "")
            yield Figure("threads", what, "threads that spin", asleep, spinning, {"one thread": f"{one:.3f} s"})


@contextmanager
def _busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _process(model: str, threads: int, waiting: str | None) -> float:
    """Seconds of a step, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {"OMP_NUM_THREADS": str(threads)} | ({} if waiting is None else {"OMP_WAIT_POLICY": waiting})
    command = [sys.executable, __file__, model]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds: float = json.loads(found.stdout)
    return seconds


def _step_seconds(model: str) -> float:
    """The median over steps of one process."""
    module = LoRAFineTuner(Pretrained(model, dtype="float32"))
    module.configure_model()
    module.train()
    ids = torch.randint(5, 100, (_BATCH, _TOKENS), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(_TOKENS) < _TOKENS - _ANSWER, -100, ids)
    batch = ready({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    optimizer = torch.optim.AdamW(module.trainable_parameters(), lr=1e-6)
    times: list[float] = []
    while len(times) < 4 or sum(times) < _STEP_SECONDS:
        start = time.perf_counter()
        module.task_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return median(times[1:])


if __name__ == "__main__":
    print(json.dumps(_step_seconds(sys.argv[1])))
