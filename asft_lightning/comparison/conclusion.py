"""Conclusion: the one sentence that a comparison comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from asft_lightning.comparison.headline import BROKEN, Headline
from asft_lightning.comparison.results import Cell, Spread
from asft_lightning.comparison.series import axes_but_poison, variant

_LOWEST = "has the lowest harmful score of "


@dataclass(frozen=True)
class Contender:
    """A method, and what it is judged by.

    Args:
        name: The method's name, with what tells it from its variants.
        harm: HS; under the worst attack, where there were several.
        accuracy: FA; None where it was not measured.
        incoherent: Noise; None likewise.
        attack: The worst attack; blank where there were not several.
    """

    name: str
    harm: Spread
    accuracy: Spread | None = None
    incoherent: Spread | None = None
    attack: str = ""

    @property
    def task(self) -> float:
        """Mean FA."""
        return float("-inf") if self.accuracy is None else self.accuracy.mean

    def __str__(self) -> str:
        """Its scores."""
        attack, accuracy = (
            self.attack and f" under {self.attack}",
            "" if self.accuracy is None else f" at FA {self.accuracy}",
        )
        return f"HS {self.harm}{attack}{accuracy}"


def contenders(headlines: Sequence[Headline], cells: Sequence[Cell]) -> list[Contender]:
    """Those of the headlines, or else of the cells that have an HS, in their order."""
    if headlines:
        return [
            Contender(
                ", ".join(filter(None, [h.method, axes_but_poison(h.axes)])), h.worst, h.accuracy, h.incoherent, h.attack
            )
            for h in headlines
        ]
    return [
        Contender(variant(cell, cells), harm, cell.spread("accuracy"), cell.spread("incoherent"))
        for cell in cells
        if (harm := cell.spread("harmful_score"))
    ]


def conclusion(judged: Sequence[Contender], margin: float) -> str:
    """Which method keeps the task at the lowest HS, beside the first one, and which others the seeds do not tell from it.

    Args:
        judged: The methods; the first is what the winner is held against.
        margin: Points of FA below the best that still keep the task.
    """
    if not judged:
        return "No harmful score has been measured."
    sound = [one for one in judged if one.incoherent is None or one.incoherent.mean <= BROKEN]
    if not sound:
        return "Every method broke the model: more than half of the answers to unsafe prompts are noise."
    if len(judged) == 1:
        return f"{judged[0].name} has {judged[0]}; there is no other method beside it."
    most = max(one.task for one in sound)
    kept = [one for one in sound if one.task == most or one.task >= most - margin]
    best = min(kept, key=lambda one: (one.harm.mean, -one.task))
    level = [one.name for one in kept if one is not best and one.harm.mean - best.harm.mean <= _deviation(best, one)]
    lost = [one for one in sound if one not in kept and one.accuracy is not None]
    safer = [one.name for one in lost if best.harm.mean - one.harm.mean > _deviation(best, one)]
    place = _place(len(kept), len(judged), margin) if best.accuracy else f"{_LOWEST}{len(judged)} methods"
    parts = [
        f"{best.name} {place}: {best}",
        "" if judged[0] is best else f"{judged[0].name} has {judged[0]}",
        f"the seeds do not tell {_listed(level)} from {best.name}" if level else "",
        f"lower, but without the task: {_listed(safer)}" if safer else "",
    ]
    return "; ".join(filter(None, parts)) + "."


def _place(kept: int, judged: int, margin: float) -> str:
    rule = f"the task (FA within {margin:g} points of the best)"
    if kept == 1:
        return f"is the only one of {judged} methods that keeps {rule}"
    return f"{_LOWEST}the {kept} of {judged} methods that keep {rule}"


def _deviation(first: Contender, second: Contender) -> float:
    """Of their difference, from seed to seed; 0 of single seeds."""
    return hypot(*(one.harm.deviation or 0.0 for one in (first, second)))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
