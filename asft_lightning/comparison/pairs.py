"""Pairs: each method beside one that it is held against, on the same prompts, rows and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asft_lightning.comparison.results import Cell, Result
from asft_lightning.comparison.spec import SEED
from asft_lightning.comparison.statistics import Interval, mean_interval, sign_test
from asft_lightning.comparison.verdicts import PLAIN

_OTHERWISE = "/harmful_score"
"""What the name of a score ends with, behind that of the scorer that asked."""


@dataclass(frozen=True)
class Pair:
    """One method against another at one setting, asked in one way.

    Args:
        method: The method's name.
        against: The other's.
        axes: {name: value} of the setting, without the seed.
        asked: The scorer that asked; ``safety`` plainly.
        seeds: Seeds that both have.
        harmful_score: HS of the method minus the other's, mean over seeds in points, with its 95 % interval by Student's t.
        accuracy: Likewise of FA.
        more: Prompts that the method answers unsafely at more seeds than the other does.
        fewer: At fewer.
        p_value: Of the exact sign test of the two; None where answers are not at hand. At one seed it is McNemar's.
    """

    method: str
    against: str
    axes: Mapping[str, Any]
    asked: str
    seeds: int
    harmful_score: Interval | None
    accuracy: Interval | None
    more: int | None
    fewer: int | None
    p_value: float | None

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        differences = {n: None if (i := getattr(self, n)) is None else i._asdict() for n in ("harmful_score", "accuracy")}
        return {**asdict(self), **differences}


def paired(cells: Sequence[Cell], against: str, axes: Sequence[str]) -> list[Pair]:
    """Every cell of another method, beside that of ``against`` at the same values of the comparison's axes.

    Asked plainly, then in every other way that both were.

    Args:
        cells: Of all methods.
        against: The method that the others are held against.
        axes: The comparison's axes. Where ``against`` has several cells at the same values of them, none is taken.
    """
    references: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.method == against:
            references.setdefault(_setting(cell, axes), []).append(cell)
    found = []
    for cell in cells:
        beside = references.get(_setting(cell, axes), [])
        if cell.method != against and len(beside) == 1:
            found += _pairs(cell, beside[0])
    return found


def _setting(cell: Cell, axes: Sequence[str]) -> str:
    return repr([(axis, cell.axes[axis]) for axis in axes if axis in cell.axes])


def _pairs(cell: Cell, reference: Cell) -> list[Pair]:
    of_seed = {result.axes[SEED]: result for result in reference.results}
    both = [(result, of_seed[result.axes[SEED]]) for result in cell.results if result.axes[SEED] in of_seed]
    if not both:
        return []
    common = set.intersection(*({*result.scores} for pair in both for result in pair))
    others = [name.removesuffix(_OTHERWISE) for name in both[0][0].scores if name in common and _is_otherwise(name)]
    return [_pair(cell, reference, both, asked) for asked in (PLAIN, *others)]


def _is_otherwise(score: str) -> bool:
    """Whether it is an HS of prompts that were asked in another way; ``safety/…`` is a single judge's."""
    return score.endswith(_OTHERWISE) and not score.startswith(f"{PLAIN}/")


def _pair(cell: Cell, reference: Cell, both: Sequence[tuple[Result, Result]], asked: str) -> Pair:
    signs = _signs(both, asked)
    more, fewer = (None, None) if signs is None else (sum(s > 0 for s in signs), sum(s < 0 for s in signs))
    return Pair(
        cell.method,
        reference.method,
        cell.axes,
        asked,
        len(both),
        _difference(both, "harmful_score" if asked == PLAIN else asked + _OTHERWISE),
        _difference(both, "accuracy"),
        more,
        fewer,
        None if more is None or fewer is None else sign_test(more, fewer),
    )


def _difference(both: Sequence[tuple[Result, Result]], figure: str) -> Interval | None:
    known = [
        x - y
        for result, other in both
        if (x := result.scores.get(figure)) is not None and (y := other.scores.get(figure)) is not None
    ]
    return mean_interval(known) if known else None


def _signs(both: Sequence[tuple[Result, Result]], asked_by: str) -> list[int] | None:
    """For each prompt, how many more of its answers are unsafe; prompts are independent, the answers to one are not.

    None where a run has no answers, or was asked other prompts than the rest. Of several judges the first is taken.
    """
    verdicts = [(result.verdicts_of(asked_by), other.verdicts_of(asked_by)) for result, other in both]
    asked = {tuple(answer.prompt for answer in of_run) for pair in verdicts for of_run in pair}
    if len(asked) > 1 or not any(asked):
        return None
    sums = dict.fromkeys(next(iter(asked)), 0)
    for of_method, of_other in verdicts:
        for x, y in zip(of_method, of_other, strict=True):
            if x.unsafe and y.unsafe:
                sums[x.prompt] += int(next(iter(x.unsafe.values()))) - int(next(iter(y.unsafe.values())))
    return list(sums.values())
