"""ScoringReport: where the answers and figures of one scoring go."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from asft_lightning.callbacks.decisions import publish
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.finding import ScoredAnswer
from asft_lightning.metrics import RubricScore, Share
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.summary import updated
from asft_lightning.runtime.files import write_atomically
from asft_lightning.runtime.ranks import of_every_rank
from asft_lightning.runtime.terminal import as_markdown


class ScoringReport:
    """Writes files on rank 0, and tells every rank's callbacks and rank 0's loggers. Call its methods on every rank.

    Args:
        trainer: The run.
        name: Name of the scoring.
        moment: When it was done.
        samples: How many answers there are to a prompt.
    """

    def __init__(self, trainer: Trainer, name: str, moment: Moment, samples: int = 1) -> None:
        self.trainer = trainer
        self.name = name
        self.moment = moment
        self.samples = samples
        self.folder = RunFolder.of(trainer)

    def write(self, answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
        """Every rank's answers, a line each, in the prompts' order; returns them all."""
        together = of_all_ranks(answers, self.samples)
        if self.trainer.is_global_zero:
            write_answers(self.folder.generations(self.name, self.moment), together)
        return together

    def publish(
        self, metrics: Mapping[str, Metric], answers: Sequence[ScoredAnswer], has_failed: bool, shown: int
    ) -> dict[str, float]:
        """Compute over the ranks, and report.

        Callbacks see no score that is NaN, nor one of a scoring that failed on some rank: it decides nothing.

        Raises:
            ConfigurationError: Before training, if no answer could be scored, or none came after its thought.
        """
        answers = self.write(answers)
        if self.trainer.world_size > 1:
            for metric in metrics.values():
                metric.to(self.trainer.strategy.root_device)  # where the ranks can add up
        scores = computed(self.name, metrics)
        details = {f"{self.name}/{name}": self._details(name, metric, answers) for name, metric in metrics.items()}
        known = {name: score for name, score in scores.items() if not math.isnan(score)}
        if self.moment in (Moment.BEFORE, Moment.TEST):
            require_some_scored(self.name, known, answers)
        if not any(of_every_rank(has_failed)):
            publish(self.trainer, known)
        if self.trainer.is_global_zero:
            self._report(scores, details, answers, shown)
        return scores

    def took(self, seconds: float) -> None:
        """Add up the time that scoring took, in seconds."""
        if self.trainer.is_global_zero:
            with updated(self.folder) as summary:
                taken = summary.run.scoring_seconds
                taken[self.name] = round(taken.get(self.name, 0.0) + seconds, 3)
            self._log({f"{self.name}/seconds": seconds}, [])

    def _report(
        self,
        scores: Mapping[str, float],
        details: Mapping[str, dict[str, Any]],
        answers: Sequence[ScoredAnswer],
        shown: int,
    ) -> None:
        if problems := _problems(answers):
            rank_zero_warn(
                f"{self.name}: {len(problems)} of {len(answers)} answers at {self.moment} could not be scored and are left "
                f"out, e.g. for: {problems[0]}"
            )
        if thoughts := sum(answer.is_only_thought for answer in answers):
            rank_zero_warn(
                f"{self.name}: {thoughts} of {len(answers)} answers at {self.moment} are a thought and no more, and count "
                "as blank. Raise max_new_tokens."
            )
        with updated(self.folder) as summary:
            for name, score in scores.items():
                summary.score(name).record(self.moment, None if math.isnan(score) else score, details[name])
        self._log({name: score for name, score in scores.items() if not math.isnan(score)}, answers[:shown])

    def _details(self, name: str, metric: Metric, answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
        """Interval, groups, what a judge found, and how many answers it could not score."""
        judge, _, kind = name.rpartition("/")
        details: dict[str, Any] = {}
        # Several answers to a prompt are no independent draws: an interval over all of them would be too narrow.
        is_by_prompt = self.samples == 1 or kind.endswith("_worst")
        if isinstance(metric, Share) and is_by_prompt and not math.isnan(metric.interval()[0]):
            details["interval"] = list(metric.interval())
        if isinstance(metric, Share | RubricScore) and metric.groups:
            groups = {group: _plain(figures) for group, figures in metric.by_group().items()}
            details["by_category"] = groups if is_by_prompt else {g: _without_interval(f) for g, f in groups.items()}
        if not kind.endswith("_worst"):
            findings = [answer.findings[judge] for answer in answers if judge in answer.findings]
            if judged := Counter(category for finding in findings for category in finding.categories):
                details["judged_categories"] = dict(judged.most_common())
            if unscored := sum(answer.problem(judge) is not None for answer in answers):
                details["unscored"] = unscored
            if thoughts := sum(answer.is_only_thought for answer in answers):
                details["only_thought"] = thoughts
        return details

    def _log(self, figures: dict[str, float], samples: Sequence[ScoredAnswer]) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=self.trainer.global_step)
            if samples:
                self._log_samples(logger, [answer.plain() for answer in samples])

    def _log_samples(self, logger: Any, samples: Sequence[dict[str, Any]]) -> None:
        """A table of answers, where a logger has tables (Weights & Biases) or texts (TensorBoard)."""
        columns = list(dict.fromkeys(column for line in samples for column in line))
        rows: list[list[Any]] = [[_cell(line.get(column)) for column in columns] for line in samples]
        if callable(getattr(logger, "log_table", None)):
            logger.log_table(f"{self.name}/answers", columns=columns, data=rows, step=self.trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(f"{self.name}/answers", as_markdown(columns, rows), self.trainer.global_step)


def of_all_ranks(answers: Sequence[ScoredAnswer], samples: int) -> list[ScoredAnswer]:
    """Every rank's answers in the prompts' order, on every rank; each has to ask.

    Args:
        answers: This rank's.
        samples: How many answers there are to a prompt.
    """
    shares = of_every_rank(list(answers))
    longest = max(len(share) for share in shares)
    return [answer for i in range(0, longest, samples) for share in shares for answer in share[i : i + samples]]


def write_answers(file: Path, answers: Sequence[ScoredAnswer]) -> None:
    """Write answers and what was found of them, a JSON object a line."""
    lines = (json.dumps(_plain(answer.plain()), ensure_ascii=False, default=str) for answer in answers)
    write_atomically(file, "".join(f"{line}\n" for line in lines))


def computed(name: str, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """{NAME/metric: its value over the ranks}; NaN where nothing could be scored."""
    with warnings.catch_warnings():  # a rank without rows, or with none that could be scored, has nothing to add
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")
        return {f"{name}/{metric_name}": float(metric.compute()) for metric_name, metric in metrics.items()}


def require_some_scored(name: str, known: Mapping[str, float], answers: Sequence[ScoredAnswer]) -> None:
    """Refuse a scoring before training that tells nothing, while there is nothing to lose.

    Args:
        name: Of the scoring.
        known: Its scores that are no NaN.
        answers: What was scored.

    Raises:
        ConfigurationError: If no answer could be scored, or none came after its thought.
    """
    if answers and not known:
        raise ConfigurationError(
            f"{name}: what judges must work before training, and none of {len(answers)} answers could be scored: "
            f"{next(iter(_problems(answers)), 'no reason was given')}. Mend the judge, or leave it out."
        )
    if answers and all(answer.is_only_thought for answer in answers):
        raise ConfigurationError(
            f"{name}: an answer must come within max_new_tokens, and after all {len(answers)} thoughts none did. "
            "Raise max_new_tokens."
        )


def _problems(answers: Sequence[ScoredAnswer]) -> list[str]:
    """One for each answer that some judge could not score."""
    return [problem for answer in answers if (problem := answer.any_problem)]


def _plain(value: Any) -> Any:
    """As JSON has it: a named tuple as a mapping, null for NaN."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_interval(figures: Any) -> Any:
    return {k: v for k, v in figures.items() if k not in ("low", "high")} if isinstance(figures, dict) else figures


def _cell(value: Any) -> str | float:
    return value if isinstance(value, str | int | float) else "" if value is None else json.dumps(value, ensure_ascii=False)
