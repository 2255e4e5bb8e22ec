"""RunCost: how long a run trained, the memory it needed, and that it came to its end."""

import sys
import time
from importlib.util import find_spec

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary, updated


class RunCost(Callback):
    """Adds ``training_seconds``, ``peak_memory_mib`` and ``ended`` to ``summary.json``; every fit of the command line does.

    The time is that from the first step to the last without scoring; of a resumed run that since it was resumed. Memory is
    what tensors took on a GPU, or else the whole process. ``ended`` tells a finished run from one that was broken off.
    """

    def __init__(self) -> None:
        self._begin = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model as it came is scored by now."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        folder = RunFolder.of(trainer)
        if trainer.is_global_zero and folder.summary.is_file():
            with updated(folder) as summary:
                summary.run.ended = False  # of a run that had ended, and goes on
        self._begin = time.perf_counter() - _scoring_seconds(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of all callbacks but those that write checkpoints the last: what was trained is scored and written."""
        folder = RunFolder.of(trainer)
        if trainer.is_global_zero and folder.summary.is_file():
            seconds = time.perf_counter() - self._begin - _scoring_seconds(trainer)
            peak = _peak_memory(pl_module.device)
            with updated(folder) as summary:
                summary.run.training_seconds = round(seconds, 3)
                summary.run.peak_memory_mib = None if peak is None else round(peak, 1)
                summary.run.ended = True


def _scoring_seconds(trainer: Trainer) -> float:
    return sum(Summary.read(RunFolder.of(trainer)).run.scoring_seconds.values())


def _peak_memory(device: torch.device) -> float | None:
    """In MiB: of the GPU's tensors, or the process's resident set; None where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if find_spec("resource") is None:
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
