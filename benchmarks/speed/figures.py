"""Paired timings: ours and a rival take turns in one process, so that what else the machine does meets both alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch


@dataclass
class Figure:
    """One line of the table: two medians and their ratio."""

    part: str
    what: str
    rival: str
    ours_s: float
    rival_s: float
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times longer the rival takes."""
        return self.rival_s / self.ours_s

    def row(self) -> str:
        """The line in Markdown."""
        notes = "; ".join(f"{key} {value}" for key, value in self.notes.items())
        times = f"{seconds(self.ours_s)} | {seconds(self.rival_s)} | {self.ratio:.2f}"
        return f"| {self.part} | {self.what} | {self.rival} | {times} | {notes} |"


HEADER = "| part | ours | rival | ours | rival | rival / ours | notes |\n|---|---|---|---|---|---|---|"


def seconds(value: float) -> str:
    """A time in a unit a person can read."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"


def paired(ours: Callable[[], object], rival: Callable[[], object], repeats: int, warm_up: int = 1) -> tuple[float, float]:
    """Medians over alternating runs, in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(warm_up + repeats):
        for spent, run in zip(times, (ours, rival), strict=True):
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            if turn >= warm_up:
                spent.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def synchronise() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
