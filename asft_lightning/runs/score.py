"""Score: one metric of a run before, while and after training, and how people read it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from asft_lightning.runs.moment import Moment

HEADINGS = ("metric (%)", "before", "after", "change")
"""Of a table of scores, whose rows :func:`score_row` makes."""
_STEPS = "steps"


@dataclass
class Score:
    """One metric over a run, in its own unit.

    Args:
        values: By moment; None where nothing could be scored.
        details: {what is known beside it: by moment}: ``interval`` [low, high], ``by_category``, ``judged_categories`` (a
            judge's, of what it found unsafe), ``unscored`` (answers left out).
    """

    values: dict[Moment, float | None] = field(default_factory=dict)
    details: dict[str, dict[Moment, Any]] = field(default_factory=dict)

    def record(self, moment: Moment, value: float | None, details: Mapping[str, Any]) -> None:
        """Add what was measured at a moment."""
        self.values[moment] = value
        for name, known in details.items():
            self.details.setdefault(name, {})[moment] = known

    @property
    def before(self) -> float | None:
        """Before training; None where it is not known."""
        return self.values.get(Moment.BEFORE)

    @property
    def after(self) -> float | None:
        """After training; None where it is not known."""
        return self.values.get(Moment.AFTER)

    @property
    def steps(self) -> dict[int, float]:
        """{optimizer step: value} while training, of what could be scored."""
        return {m.step: value for m, value in self.values.items() if m.step is not None and value is not None}

    def interval(self, moment: Moment) -> tuple[float, float] | None:
        """Its 95 % interval at a moment; None where there is none."""
        bounds = self.details.get("interval", {}).get(moment)
        if bounds is None:
            return None
        low, high = map(float, bounds)
        return low, high

    def in_short(self) -> str:
        """Before and after, e.g. ``0.0 → 12.5``."""
        return f"{_figure(self.before)} → {_figure(self.after)}"

    def plain(self) -> dict[str, Any]:
        """As JSON has it: ``{"before": x, "after": y, "steps": {"50": z}, "interval": {"before": [low, high], …}, …}``."""
        entry: dict[str, Any] = {}
        for moment, value in self.values.items():
            (entry if moment.step is None else entry.setdefault(_STEPS, {}))[str(moment)] = value
        return entry | {name: {str(m): known for m, known in by.items()} for name, by in self.details.items()}

    @classmethod
    def from_plain(cls, entry: Mapping[str, Any]) -> Self:
        """From what :meth:`plain` gave."""
        details = {name: by for name, by in entry.items() if name != _STEPS and isinstance(by, Mapping)}
        values = {name: value for name, value in entry.items() if name not in details and name != _STEPS}
        steps = {str(int(name)): value for name, value in entry.get(_STEPS, {}).items()}
        score = cls(
            {Moment(name): number(value) for name, value in {**values, **steps}.items()},
            {name: {Moment(key): known for key, known in by.items()} for name, by in details.items()},
        )
        for moment in score.details.get("interval", {}):
            score.interval(moment)
        return score


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)):
        raise ValueError("no number")
    return value


def score_row(name: str, score: Score) -> list[str]:
    """A line of a table: a score in percent before and after, with its intervals, and the change."""
    before, after = score.before, score.after
    change = None if before is None or after is None else after - before
    return [name, measured(score, Moment.BEFORE), measured(score, Moment.AFTER), _figure(change, "+")]


def measured(score: Score, moment: Moment) -> str:
    """A score at a moment, in percent, with its interval: ``97.5  94.3–98.9``."""
    interval = score.interval(moment)
    reach = "" if interval is None else f"{interval[0]:.1f}–{interval[1]:.1f}"
    return _figure(score.values.get(moment)) + (f"  {reach:>10}" if reach else "")


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.1f}"
