"""Tuning: of a small budget of settings, on seeds that are not reported, a method takes the best, an attacker the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asft_lightning.comparison.results import Cell, Result
from asft_lightning.comparison.search import Search
from asft_lightning.comparison.spec import Tuning
from asft_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class Choice:
    """What a method's setting was chosen from.

    Args:
        method: The method's name.
        candidates: The settings, {name: value} each.
        harmful_scores: Mean HS of each in percent; None where it has none.
        accuracies: Mean FA of each in percent, likewise.
        counts: How many runs of each.
        chosen: Which it is; None where no setting has both scores.
    """

    method: str
    candidates: Sequence[Mapping[str, Any]]
    harmful_scores: Sequence[float | None]
    accuracies: Sequence[float | None]
    counts: Sequence[int]
    chosen: int | None

    @property
    def best_accuracy(self) -> float | None:
        """The highest mean FA of those that have both scores."""
        columns = zip(self.harmful_scores, self.accuracies, strict=True)
        return max((fa for hs, fa in columns if hs is not None and fa is not None), default=None)

    @property
    def setting(self) -> Mapping[str, Any] | None:
        """The chosen one."""
        return None if self.chosen is None else self.candidates[self.chosen]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        columns = zip(self.candidates, self.harmful_scores, self.accuracies, self.counts, strict=True)
        lines = [{"setting": setting, "harmful_score": hs, "accuracy": fa, "runs": n} for setting, hs, fa, n in columns]
        return {"method": self.method, "candidates": lines, "chosen": self.setting}


def rule(margin: float, reference: str | None = None) -> str:
    """How a setting is chosen, in words; with a ``reference`` by an attacker."""
    wanted, of = ("lowest", "that method") if reference is None else ("highest", reference)
    return (
        f"{wanted} mean HS among the settings whose mean FA is at most {margin:g} points below the best of {of}; "
        "of equals the one with the higher FA, then the one named first"
    )


def tuning_record(given: Tuning | Search, choices: Sequence[Choice]) -> dict[str, Any]:
    """What was chosen and how, as JSON has it."""
    how = rule(given.margin, given.reference if isinstance(given, Search) else None)
    methods = [choice.record() for choice in choices]
    return {"rule": how, "budget": given.budget, "axes": given.axes, "methods": methods}


def choose(
    method: str,
    candidates: Sequence[Mapping[str, Any]],
    results: Sequence[Sequence[Result]],
    margin: float,
    attacks: bool = False,
    best: float | None = None,
) -> Choice:
    """Choose by :func:`rule`.

    Args:
        method: The method's name.
        candidates: Its settings.
        results: The tuning runs of each, of which some may be missing.
        margin: In points of percent, ≥ 0.
        attacks: Whether an attacker chooses, who wants the highest HS.
        best: FA that the margin lies below; None for the best among ``results``.

    Raises:
        ConfigurationError: If the runs measure no HS or no FA.
    """
    tuned = [Cell(method, setting, runs) for setting, runs in zip(candidates, results, strict=True)]
    hs, fa = ([_mean(cell, figure) for cell in tuned] for figure in ("harmful_score", "accuracy"))
    if any(results) and (all(value is None for value in hs) or all(value is None for value in fa)):
        measured = sorted({name for runs in results for result in runs for name in result.scores})
        raise ConfigurationError(
            f"tuning needs HS and FA of every run, and {method}'s have {measured}. Add "
            "SafetyEvaluation and UtilityEvaluation to the configs."
        )
    known = [(i, x, y) for i, (x, y) in enumerate(zip(hs, fa, strict=True)) if x is not None and y is not None]
    best = max((y for _, _, y in known), default=0.0) if best is None else best
    allowed = [(-x if attacks else x, -y, i) for i, x, y in known if y >= best - margin]
    chosen = min(allowed)[2] if allowed else None
    return Choice(method, candidates, hs, fa, [cell.seeds for cell in tuned], chosen)


def _mean(cell: Cell, figure: str) -> float | None:
    spread = cell.spread(figure)
    return None if spread is None else spread.mean
