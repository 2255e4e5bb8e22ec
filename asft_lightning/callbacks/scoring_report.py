"""ScoringReport: where the answers and figures of one scoring go."""

import json
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from asft_lightning.callbacks.deciders import publish
from asft_lightning.errors import ConfigurationError
from asft_lightning.metrics import RubricScore, Share
from asft_lightning.runs.summary import RunSummary
from asft_lightning.runtime.files import write_atomically

T = TypeVar("T")


class ScoringReport:
    """Writes files on rank 0, and tells every rank's callbacks and rank 0's loggers. Call its methods on every rank.

    Args:
        trainer: The run.
        name: Name of the scoring.
        when: ``before``, ``after``, ``test``, or a step's number.
        samples: How many answers there are to a prompt.
    """

    def __init__(self, trainer: Trainer, name: str, when: str, samples: int = 1) -> None:
        self.trainer = trainer
        self.name = name
        self.when = when
        self.samples = samples
        self.folder = Path(trainer.default_root_dir)

    def write(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Every rank's records, a line each, in the prompts' order; returns them all."""
        shares = _gathered(records, self.trainer)
        longest = max(len(share) for share in shares)
        together = [r for i in range(0, longest, self.samples) for share in shares for r in share[i : i + self.samples]]
        if self.trainer.is_global_zero:
            text = "".join(json.dumps(_plain(record), ensure_ascii=False, default=str) + "\n" for record in together)
            write_atomically(self.folder / "generations" / f"{self.name}-{self.when}.jsonl", text)
        return together

    def publish(
        self, metrics: dict[str, Metric], records: list[dict[str, Any]], failed: bool, shown: int
    ) -> dict[str, float]:
        """Compute over the ranks, and report.

        Callbacks see no score that is NaN, nor one of a scoring that failed on some rank: it decides nothing.

        Raises:
            ConfigurationError: Before training, if no answer could be scored.
        """
        records = self.write(records)
        if self.trainer.world_size > 1:
            for metric in metrics.values():
                metric.to(self.trainer.strategy.root_device)  # where the ranks can add up
        with warnings.catch_warnings():  # a rank without rows, or with none that could be scored, has nothing to add
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            scores = {f"{self.name}/{name}": float(metric.compute()) for name, metric in metrics.items()}
        details = {f"{self.name}/{name}": self._details(name, metric, records) for name, metric in metrics.items()}
        known = {name: score for name, score in scores.items() if not math.isnan(score)}
        if self.when in ("before", "test") and records and not known:
            raise ConfigurationError(
                f"{self.name}: what judges must work before training, and none of {len(records)} answers could be scored: "
                f"{next(iter(_problems(records)), 'no reason was given')}. Mend the judge, or leave it out."
            )
        if not any(_gathered(failed, self.trainer)):
            publish(self.trainer, known)
        if self.trainer.is_global_zero:
            self._report(scores, details, records, shown)
        return scores

    def _report(
        self, scores: dict[str, float], details: dict[str, dict[str, Any]], records: list[dict[str, Any]], shown: int
    ) -> None:
        if problems := _problems(records):
            rank_zero_warn(
                f"{self.name}: {len(problems)} of {len(records)} answers at {self.when} could not be scored and are left "
                f"out, e.g. for: {problems[0]}"
            )
        summary = RunSummary(self.folder)
        for name, score in scores.items():
            summary.record(name, None if math.isnan(score) else score, self.when, details[name])
        self._log({name: score for name, score in scores.items() if not math.isnan(score)}, records[:shown])

    def _details(self, name: str, metric: Metric, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Interval, groups, what a judge found, and how many answers it could not score."""
        judge, _, kind = name.rpartition("/")
        prefix = f"{judge}/" if judge else ""
        details: dict[str, Any] = {}
        # Several answers to a prompt are no independent draws: an interval over all of them would be too narrow.
        by_prompt = self.samples == 1 or kind.endswith("_worst")
        if isinstance(metric, Share) and by_prompt and not math.isnan(metric.interval()[0]):
            details["interval"] = list(metric.interval())
        if isinstance(metric, Share | RubricScore) and metric.groups:
            groups = {group: _plain(figures) for group, figures in metric.by_group().items()}
            details["by_category"] = groups if by_prompt else {g: _without_interval(f) for g, f in groups.items()}
        if not kind.endswith("_worst"):
            if judged := Counter(c for record in records for c in record.get(f"{prefix}categories") or ()):
                details["judged_categories"] = dict(judged.most_common())
            if unscored := sum(bool(record.get(f"{prefix}problem") or record.get("problem")) for record in records):
                details["unscored"] = unscored
        return details

    def took(self, seconds: float) -> None:
        """Add up the time that scoring took, in seconds."""
        if self.trainer.is_global_zero:
            RunSummary(self.folder).add_seconds(self.name, seconds)
            self._log({f"{self.name}/seconds": seconds}, [])

    def _log(self, figures: dict[str, float], samples: list[dict[str, Any]]) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=self.trainer.global_step)
            if samples:
                self._log_samples(logger, samples)

    def _log_samples(self, logger: Any, samples: list[dict[str, Any]]) -> None:
        """A table of answers, where a logger has tables (Weights & Biases) or texts (TensorBoard)."""
        columns = list(dict.fromkeys(column for line in samples for column in line))
        rows: list[list[Any]] = [[_cell(line.get(column)) for column in columns] for line in samples]
        if callable(getattr(logger, "log_table", None)):
            logger.log_table(f"{self.name}/answers", columns=columns, data=rows, step=self.trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            lines = [columns, ["---"] * len(columns), *rows]
            table = "\n".join("|".join(["", *map(_markdown, line), ""]) for line in lines)
            logger.experiment.add_text(f"{self.name}/answers", table, self.trainer.global_step)


def _gathered(own: T, trainer: Trainer) -> list[T]:
    """Every rank's object, on every rank."""
    if trainer.world_size == 1:
        return [own]
    shares: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(shares, own)
    return shares


def _problems(records: list[dict[str, Any]]) -> list[str]:
    """One for each answer that some judge could not score."""
    found = [
        [value for key, value in r.items() if value and (key == "problem" or key.endswith("/problem"))] for r in records
    ]
    return [str(problems[0]) for problems in found if problems]


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


def _markdown(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", "<br>")
