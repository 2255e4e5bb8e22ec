"""Pace: how fast a run trains, by what the host knows; no device is asked."""

import time
from collections.abc import Mapping
from typing import Any

from asft_lightning.modules.ready_batch import TOKENS


class Pace:
    """Tokens, over the time that micro-batches and optimizer steps take: scoring, validation and writing are not in it."""

    def __init__(self) -> None:
        self._tokens, self._seconds, self._mark = 0, 0.0, 0.0

    def begin(self, batch: Any) -> None:
        """A micro-batch begins.

        Args:
            batch: Its tokens, padding left out where the batch tells how many those are.
        """
        if isinstance(batch, Mapping) and "input_ids" in batch:
            self._tokens += int(batch.get(TOKENS, batch["input_ids"].numel()))
        self._mark = time.perf_counter()

    def mark(self) -> None:
        """So much of it is done."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now

    def rate(self) -> float:
        """Tokens a second on this rank since the last time that it was asked."""
        rate = self._tokens / self._seconds if self._seconds else 0.0
        self._tokens, self._seconds = 0, 0.0
        return rate
