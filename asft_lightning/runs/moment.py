"""Moment: when in a run something was measured."""

from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True)
class Moment:
    """Before training, after it, in a test, or at an optimizer step.

    Args:
        name: ``before``, ``after``, ``test``, or a step's number; files and records have it so.

    >>> str(Moment.at(50)), Moment.at(50).step, Moment.AFTER.step
    ('50', 50, None)
    """

    name: str
    BEFORE: ClassVar["Moment"]
    AFTER: ClassVar["Moment"]
    TEST: ClassVar["Moment"]

    @classmethod
    def at(cls, step: int) -> Self:
        """While training, after so many optimizer steps."""
        return cls(str(step))

    @property
    def step(self) -> int | None:
        """The optimizer step; None of a moment that is not while training."""
        return int(self.name) if self.name.isdecimal() else None

    def __str__(self) -> str:
        """As files and records have it."""
        return self.name


Moment.BEFORE, Moment.AFTER, Moment.TEST = Moment("before"), Moment("after"), Moment("test")
