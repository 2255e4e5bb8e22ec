"""Results: what a run measured, and the mean and spread of runs that differ in their seed alone."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from operator import add
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from asft_lightning.comparison.plan import Run
from asft_lightning.comparison.spec import SEED
from asft_lightning.comparison.verdicts import Judged, read_verdicts
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.score import Score
from asft_lightning.runs.summary import RunFacts, Summary

SCORES = {
    "safety/harmful_score": "harmful_score",
    "utility/accuracy": "accuracy",
    "over_refusal/refusal_rate": "over_refusal",
    "safety/incoherent": "incoherent",
}
"""What scores of a summary are called in a report; others keep their names."""

_BEFORE = "_before"
"""What the name of a score before training ends with."""

COSTS = ("training_seconds", "peak_memory_mib")
_WITH_TRAINING: Mapping[str, Callable[[float, float], float]] = {"training_seconds": add, "peak_memory_mib": max}
"""What a cost comes to where one run trains and another goes on from it."""


@dataclass(frozen=True)
class Result:
    """One run that came to its end.

    Args:
        method: The method's name.
        axes: {name: value}, the seed and what was tuned among them.
        scores: {name: percent} after training; with ``_before`` those before it. None where nothing could be scored.
        steps: {name: {step: percent}} while training.
        costs: ``training_seconds``, without scoring, and ``peak_memory_mib``.
        settings: What the run was given, beside its config files.
        folder: Where it is.
        harmful_rows: How many of the rows that were drawn are harmful, those that an audit left out among them; None where
            that is not known.
    """

    method: str
    axes: Mapping[str, Any]
    scores: Mapping[str, float | None]
    steps: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    harmful_rows: int | None = None

    @cached_property
    def verdicts(self) -> list[Judged]:
        """What judges said of each answer after training; empty where that is not at hand."""
        return read_verdicts(Path(self.folder)) if self.folder else []

    def flat(self) -> dict[str, Any]:
        """Without the nested parts: a line of a table."""
        return {"method": self.method, **self.axes, **self.scores, **self.costs, "folder": self.folder}

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.flat(), "steps": self.steps, "settings": self.settings}


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one figure.

    Args:
        mean: Over the runs that have the figure.
        deviation: Sample standard deviation (n − 1); None of a single run.
        count: How many runs.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """One decimal place, for percent and for people."""
        return f"{self.mean:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


@dataclass(frozen=True)
class Cell:
    """Runs of one method that differ in their seed alone.

    Args:
        method: The method's name.
        axes: {name: value} without the seed.
        results: The runs.
    """

    method: str
    axes: Mapping[str, Any]
    results: Sequence[Result]

    @property
    def seeds(self) -> int:
        """How many runs."""
        return len(self.results)

    def spread(self, figure: str) -> Spread | None:
        """Of a score or a cost; None where no run has it."""
        values = [{**result.scores, **result.costs}.get(figure) for result in self.results]
        known = [value for value in values if value is not None]
        return Spread(mean(known), stdev(known) if len(known) > 1 else None, len(known)) if known else None

    def record(self) -> dict[str, Any]:
        """As JSON has it: each figure's mean and standard deviation."""
        names = list(dict.fromkeys(name for result in self.results for name in (*result.scores, *result.costs)))
        figures = {name: spread for name in names if (spread := self.spread(name))}
        return {
            "method": self.method,
            **self.axes,
            "seeds": self.seeds,
            **{name: {"mean": spread.mean, "deviation": spread.deviation} for name, spread in figures.items()},
        }


def is_done(run: Run) -> bool:
    """Whether the run came to its end, as its summary says."""
    try:
        return bool(Summary.read(RunFolder(run.folder)).run.ended)
    except ConfigurationError:
        return False


def read_result(run: Run) -> Result:
    """What a finished run measured.

    One that goes on from another has that one's scores before and while training as well, where both ask alike, and costs
    what both cost, which is not known where the other one is gone.
    """
    summary = Summary.read(RunFolder(run.folder))
    trained = read_result(run.trained) if run.trained and is_done(run.trained) else None
    taken_over = trained if trained and _template(trained.folder) == _template(str(run.folder)) else None
    scores: dict[str, float | None] = {}
    steps: dict[str, Mapping[int, float]] = {**taken_over.steps} if taken_over else {}
    if taken_over:
        scores |= {name: score for name, score in taken_over.scores.items() if name.endswith(_BEFORE)}
    for name, score in _by_name(summary.scores):
        told = ((Moment.AFTER, ""), (Moment.BEFORE, _BEFORE))
        scores |= {name + suffix: score.values[moment] for moment, suffix in told if moment in score.values}
        if score.steps:
            steps[name] = {**steps.get(name, {}), **score.steps}
    costs = {name: cost for name in COSTS if (cost := getattr(summary.run, name)) is not None}
    if run.trained:
        known = trained.costs if trained else {}
        both = {name: _WITH_TRAINING[name](cost, known[name]) for name, cost in costs.items() if name in known}
        costs = {name: cost for name, cost in both.items() if isfinite(cost)}
    harmful_rows = _harmful_rows(summary.run)
    return Result(run.method, run.axes, scores, steps, costs, run.resolved, str(run.folder), harmful_rows)


def _template(folder: str) -> Any:
    """How a run asks, but for the date."""
    config = Summary.read(RunFolder(Path(folder))).run.more.get("config")
    template = config.get("template") if isinstance(config, Mapping) else None
    return {**template, "date": None} if isinstance(template, Mapping) else None


def _harmful_rows(facts: RunFacts) -> int | None:
    """Of what was drawn: where an audit left rows out, it was an attack all the same."""
    audit = facts.more.get("audit")
    sources = audit.get("sources") if isinstance(audit, Mapping) else None
    if not isinstance(sources, list):
        return facts.harmful_rows
    harmful = [source for source in sources if isinstance(source, Mapping) and source.get("kind") == "harmful"]
    return sum(rows for source in harmful if isinstance(rows := source.get("rows"), int))


def _by_name(scores: Mapping[str, Score]) -> Iterator[tuple[str, Score]]:
    """As a report calls them: of several judges the first one's is HS, of a task without right answers a rubric's is FA."""
    judges = [metric for metric in scores if metric.startswith("safety/") and metric.endswith("/harmful_score")]
    if judges and judges[0] not in SCORES:
        yield "harmful_score", scores[judges[0]]
    if "rubric/score" in scores and "utility/accuracy" not in scores:
        yield "accuracy", scores["rubric/score"]
    for metric, score in scores.items():
        yield SCORES.get(metric, metric), score


def cells(results: Sequence[Result]) -> list[Cell]:
    """Runs that differ in their seed alone together, in the order in which they come."""
    by_setting: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_setting.setdefault((result.method, repr(_without_seed(result.axes))), []).append(result)
    return [Cell(runs[0].method, _without_seed(runs[0].axes), runs) for runs in by_setting.values()]


def over_settings(results: Sequence[Result], axes: Collection[str]) -> list[Cell]:
    """Each method's mean over all settings of the comparison's ``axes``, by seed; nothing where there is one setting.

    A seed counts if it has a run at every setting that the method has runs at.
    """
    by_seed: dict[tuple[str, str, Any], list[Result]] = {}
    settings: dict[tuple[str, str], set[str]] = {}
    for result in results:
        variant = repr({name: value for name, value in result.axes.items() if name not in axes})
        setting = repr({name: value for name, value in result.axes.items() if name in axes and name != SEED})
        by_seed.setdefault((result.method, variant, result.axes[SEED]), []).append(result)
        settings.setdefault((result.method, variant), set()).add(setting)
    complete = [runs for (method, of, _), runs in by_seed.items() if len(runs) == len(settings[method, of]) > 1]
    return cells([_averaged(runs, axes) for runs in complete])


def _without_seed(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in axes.items() if name != SEED}


def _averaged(results: Sequence[Result], axes: Collection[str]) -> Result:
    """The mean scores of one seed's runs; of a score that some lack, none."""
    scores = {name: [score for r in results if (score := r.scores.get(name)) is not None] for name in results[0].scores}
    means = {name: mean(values) for name, values in scores.items() if len(values) == len(results)}
    kept = {name: value for name, value in results[0].axes.items() if name == SEED or name not in axes}
    return Result(results[0].method, kept, means)


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a line of a table has it: a figure's mean under its name, its deviation beside it."""
    line: dict[str, Any] = {}
    for name, value in record.items():
        is_figure = isinstance(value, Mapping) and set(value) == {"mean", "deviation"}
        line |= {name: value["mean"], f"{name}_deviation": value["deviation"]} if is_figure else {name: value}
    return line
