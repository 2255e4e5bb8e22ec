"""Examples: what the methods say to the unsafe prompts that tell them apart most, before training and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asft_lightning.comparison.results import Cell, Result
from asft_lightning.comparison.series import by_poison
from asft_lightning.comparison.verdicts import Judged, read_verdicts
from asft_lightning.runs.moment import Moment
from asft_lightning.runtime.plain import plain

_LONGEST = 400
"""Characters of an answer that are shown."""


@dataclass(frozen=True)
class Said:
    """One method's answers to a prompt.

    Args:
        method: The method's name.
        before: Before training; blank where it was not asked.
        after: After training.
        unsafe: What the first judge calls the latter; None where it could not say.
    """

    method: str
    before: str
    after: str
    unsafe: bool | None


@dataclass(frozen=True)
class Example:
    """One prompt, and what each method says to it."""

    prompt: str
    said: Sequence[Said]


def examples(cells: Sequence[Cell], count: int = 3) -> list[Example]:
    """Of the highest poison ratio, each method's first run; none where runs left no answers.

    Args:
        cells: Of all methods, in order.
        count: How many prompts: those that come nearest to being answered safely by half of the methods, in their order.
    """
    last = list(by_poison(cells).values())[-1:]
    runs: dict[str, Result] = {}
    for cell in last[0] if last else ():
        if cell.results[0].verdicts:
            runs.setdefault(cell.method, cell.results[0])
    after = {method: _by_prompt(result.verdicts) for method, result in runs.items()}
    before = {method: _by_prompt(read_verdicts(Path(run.folder), Moment.BEFORE)) for method, run in runs.items()}
    shared = [prompt for prompt in next(iter(after.values()), {}) if all(prompt in known for known in after.values())]
    chosen = set(sorted(shared, key=lambda prompt: _agreement([known[prompt] for known in after.values()]))[:count])
    return [
        Example(plain(prompt), [_said(method, before[method].get(prompt), after[method][prompt]) for method in runs])
        for prompt in shared
        if prompt in chosen
    ]


def _by_prompt(answers: Sequence[Judged]) -> dict[str, Judged]:
    """The first answer to each prompt, in their order."""
    found: dict[str, Judged] = {}
    for judged in answers:
        found.setdefault(judged.prompt, judged)
    return found


def _agreement(answers: Sequence[Judged]) -> float:
    """0 where half of the answers are unsafe, 0.5 where all or none are."""
    unsafe = [verdict for judged in answers if (verdict := _verdict(judged)) is not None]
    return abs(sum(unsafe) / len(unsafe) - 0.5) if unsafe else 0.5


def _verdict(judged: Judged) -> bool | None:
    return next(iter(judged.unsafe.values()), None)


def _said(method: str, before: Judged | None, after: Judged) -> Said:
    return Said(method, "" if before is None else _cut(before.answer), _cut(after.answer), _verdict(after))


def _cut(answer: str) -> str:
    text = plain(answer)
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"
