"""Pairs: each method beside one that it is held against, on the same prompts, rows and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from asft_lightning.comparison.results import Cell, Result
from asft_lightning.comparison.spec import SEED
from asft_lightning.comparison.statistics import Interval, mean_interval, sign_test
from asft_lightning.comparison.verdicts import PLAIN, read_verdicts
from asft_lightning.runtime.names import is_name

_OTHERWISE = "/harmful_score"
"""What the name of a score ends with, behind that of the scorer that asked."""
_Read = Callable[[str, str], list[tuple[str, bool | None]]]
"""From a run's folder and the name of a scorer to what :func:`_unsafe_answers` finds."""


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
    read = cache(_unsafe_answers)  # those of `against` are needed with each other method
    references: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.method == against:
            references.setdefault(_setting(cell, axes), []).append(cell)
    found = []
    for cell in cells:
        beside = references.get(_setting(cell, axes), [])
        if cell.method != against and len(beside) == 1:
            found += _pairs(cell, beside[0], read)
    return found


def _setting(cell: Cell, axes: Sequence[str]) -> str:
    return repr([(axis, cell.axes[axis]) for axis in axes if axis in cell.axes])


def _pairs(cell: Cell, reference: Cell, read: _Read) -> list[Pair]:
    of_seed = {result.axes[SEED]: result for result in reference.results}
    both = [(result, of_seed[result.axes[SEED]]) for result in cell.results if result.axes[SEED] in of_seed]
    if not both:
        return []
    common = set.intersection(*({*result.scores} for pair in both for result in pair))
    scores = {PLAIN: "harmful_score"}
    for score in (name for name in both[0][0].scores if name in common and name.endswith(_OTHERWISE)):
        asked = score.partition("/")[0]
        if is_name(asked):  # else no scorer's, and it shall lead to no file
            scores.setdefault(asked, score)  # of several judges the first
    return [_pair(cell, reference, both, asked, score, read) for asked, score in scores.items()]


def _pair(cell: Cell, reference: Cell, both: Sequence[tuple[Result, Result]], asked: str, score: str, read: _Read) -> Pair:
    signs = _signs(both, asked, read)
    more, fewer = (None, None) if signs is None else (sum(s > 0 for s in signs), sum(s < 0 for s in signs))
    return Pair(
        cell.method,
        reference.method,
        cell.axes,
        asked,
        len(both),
        _difference(both, score),
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


def _signs(both: Sequence[tuple[Result, Result]], asked_by: str, read: _Read) -> list[int] | None:
    """For each prompt, how many more of its answers are unsafe; prompts are independent, the answers to one are not.

    None where a run has no answers, or was asked other prompts than the rest. Of several judges the first is taken.
    """
    verdicts = [(read(result.folder, asked_by), read(other.folder, asked_by)) for result, other in both]
    asked = {tuple(prompt for prompt, _ in of_run) for pair in verdicts for of_run in pair}
    if len(asked) > 1 or not any(asked):
        return None
    sums = dict.fromkeys(next(iter(asked)), 0)
    for of_method, of_other in verdicts:
        for (prompt, x), (_, y) in zip(of_method, of_other, strict=True):
            if x is not None and y is not None:
                sums[prompt] += x - y
    return list(sums.values())


def _unsafe_answers(folder: str, asked_by: str) -> list[tuple[str, bool | None]]:
    """Each prompt and whether its answer is unsafe, by the first judge; None where that one could not say."""
    judged = read_verdicts(Path(folder), asked=asked_by) if folder else []
    return [(answer.prompt, next(iter(answer.unsafe.values()), None)) for answer in judged]
