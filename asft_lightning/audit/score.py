"""Score: what can be asked of the aligned model about a training row."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.data.example import Example


class RowScore(NamedTuple):
    """What a score says of one row.

    Attributes:
        value: The higher, the more suspect; −∞ for not at all.
        turn: Which of the row's learnt answers it is about, from 0; None for all of the row.
        said: What the aligned model says in its place, where it was asked.
    """

    value: float = float("-inf")
    turn: int | None = None
    said: str = ""


class Score(ABC):
    """One figure a row: a frozen dataclass."""

    name: ClassVar[str]
    threshold: ClassVar[float | None] = None
    """Beyond which it flags a row where there is nothing known to find that by; None: it then flags none."""

    @abstractmethod
    def __call__(self, aligned: AlignedModel, examples: Sequence[Example]) -> list[RowScore]:
        """What it says of each row."""

    def fresh(self, known: Sequence[Example]) -> list[Example]:
        """Those of known rows by which its threshold may be found: they are not what the score itself comes from."""
        return list(known)


def highest(count: int, scored: Sequence[tuple[int, RowScore]]) -> list[RowScore]:
    """Of each row the most suspect of its answers.

    Args:
        count: How many rows there are.
        scored: (place of a row, score of one of its answers).
    """
    of_rows = [RowScore()] * count
    for place, score in scored:
        if score.value > of_rows[place].value:
            of_rows[place] = score
    return of_rows
