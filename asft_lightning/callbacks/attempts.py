"""Attempts: what may fail in a scoring, and what becomes of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_warn

from asft_lightning.runs.moment import Moment

T = TypeVar("T")


class Attempts(ABC):
    """Does what may fail; a part of :class:`ScoringCallback`.

    Before training, and when only testing, there is nothing to lose, and an error goes on; later the weights trained so far
    are worth more than a score.
    """

    _is_lenient = False
    _has_failed = False

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is said of."""

    def begin(self, moment: Moment) -> None:
        """Nothing has failed yet at this moment."""
        self._is_lenient, self._has_failed = moment not in (Moment.BEFORE, Moment.TEST), False

    def attempt(self, what: str, do: Callable[[], T]) -> tuple[T | None, str | None]:
        """The result of ``do``, or None and what went wrong."""
        try:
            return do(), None
        except Exception as error:
            if not self._is_lenient:
                raise
            self._has_failed = True
            problem = f"{type(error).__name__}: {error}"
            rank_zero_warn(f"{self.label}: {what} failed ({problem}). What there is is kept; training goes on.")
            return None, problem
