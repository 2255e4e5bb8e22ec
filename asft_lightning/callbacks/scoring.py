"""ScoringCallback: prompts, answered while training, scored, and put where people look. What they mean is a subclass's."""

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from asft_lightning.callbacks.deciders import check_deciders, withdraw
from asft_lightning.callbacks.protocols import ChatModule
from asft_lightning.callbacks.scheduled import ScheduledCallback
from asft_lightning.callbacks.scoring_report import ScoringReport
from asft_lightning.data import Row, Source
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import Attack, generate_answers, undisturbed
from asft_lightning.runs.summary import RunSummary

T = TypeVar("T")


class ScoringCallback(ScheduledCallback):
    """Answer a set of prompts before training, every so often, and after; with or without it training is the same.

    Scores go to the loggers, to ``trainer.callback_metrics`` (for ``ModelCheckpoint`` and ``EarlyStopping``) and to
    ``summary.json``, answers to ``generations/NAME-WHEN.jsonl``, both in the run's folder. Prompts are rendered with the
    module's own ``template`` and ``tokenizer``, and spread over the ranks. Several sets are several callbacks, by name.

    Answering and judging may fail: before training that is an error; later what there is is kept, the failure is reported,
    and training goes on.

    Args:
        prompts: Where the prompts come from.
        name: First part of the scores' names; null for the kind of scoring. Each callback of a run needs its own.
        attack: How the prompts are asked: wrapped, with the answer begun, or sampled several times.
        max_prompts: How many of them, from the first; null for all.
        max_new_tokens: Longest answer in tokens.
        batch_size: Prompts a batch.
        at_start: Score before the first step.
        every_n_steps: Score every so many optimizer steps.
        every_n_epochs: Score every so many epochs.
        at_end: Score after the last step.
        sample_answers: How many answers to show as a table in loggers that have tables or texts.

    Raises:
        ConfigurationError: If a number is not positive, or the name is no name of a file.
    """

    kind: str
    """What the scores of a subclass are called where ``name`` does not say."""

    def __init__(
        self,
        prompts: Source,
        name: str | None = None,
        attack: Attack = Attack(),  # noqa: B008 (frozen)
        max_prompts: int | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 32,
        at_start: bool = True,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        at_end: bool = True,
        sample_answers: int = 8,
    ) -> None:
        super().__init__(at_start, every_n_steps, every_n_epochs, at_end)
        self.require_positive(max_prompts=max_prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        self.name = self.kind if name is None else name
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigurationError(f"name must be letters, digits, _, - and dots, got {name!r}. It names files, too.")
        self.prompts = prompts
        self.attack = attack
        self.max_prompts = max_prompts
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.sample_answers = sample_answers
        self.rows: list[Row] = []
        self._measured: list[str] = []
        self._lenient = False
        self._failed = False

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics by name, e.g. ``{"harmful_score": HarmfulScore()}``."""

    @abstractmethod
    def score(self, rows: Sequence[Row], answers: Sequence[str], metrics: dict[str, Metric]) -> list[dict[str, Any]]:
        """Update ``metrics`` with these answers; return what to write beside each, e.g. ``{"unsafe": True}``.

        A row stands there ``attack.samples`` times in a row, with another answer each. An answer that could not be scored
        gets a ``problem`` that says why, and is left out of the metrics. Whatever may fail goes through :meth:`attempt`.
        """

    def check(self, trainer: Trainer) -> None:
        """Hook: refuse prompts that must not be scored, before any training."""

    def release(self) -> None:
        """Hook: leave the accelerator, when a scoring is done."""

    @property
    def categories(self) -> list[str]:
        """The kinds of harm that the prompts are about, for scores by category."""
        return sorted({category for row in self.rows for category in row.categories})

    @property
    def scores(self) -> list[str]:
        """The names of what is measured, e.g. ``safety/harmful_score``."""
        return [f"{self.name}/{metric}" for metric in self.metrics()]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the prompts and check them, so that a mistake in them shows before training."""
        if not self.rows:
            self.rows = list(islice(self.prompts.iterate(), self.max_prompts))
        if [scorer.name for scorer in _scorers(trainer)].count(self.name) > 1:
            raise ConfigurationError(
                f"each scoring callback needs a name of its own, and several are {self.name!r}. Set `name`."
            )
        self.check(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the run's summary, and score the model as it came."""
        check_deciders(trainer, self, self.scores)
        withdraw(trainer, self.scores)
        if not trainer.global_step and _scorers(trainer)[0] is self and trainer.is_global_zero:
            RunSummary(trainer.default_root_dir).start(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """What was measured is about to be no longer so."""
        withdraw(trainer, self._measured)
        self._measured = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score what was trained, and show before and after once all scorers have."""
        super().on_train_end(trainer, pl_module)
        if _scorers(trainer)[-1] is self and trainer.is_global_zero:
            RunSummary(trainer.default_root_dir).show()

    def run(self, trainer: Trainer, pl_module: LightningModule, when: str) -> dict[str, float]:
        """Answer, score, and report once; returns the scores, NaN where nothing could be scored.

        Every rank takes part to the end, also one whose model or judge failed: the others wait for it.
        """
        begin = time.perf_counter()
        self._lenient, self._failed = when not in ("before", "test"), False
        rows = [row for row in self.rows[trainer.global_rank :: trainer.world_size] for _ in range(self.attack.samples)]
        report = ScoringReport(trainer, self.name, when, self.attack.samples)
        with undisturbed(cast(ChatModule, pl_module).model):
            given, problem = self.attempt("answering", lambda: self._answers(trainer, pl_module, rows))
            answers = [""] * len(rows) if given is None else given
            records = [_record(row, answer) for row, answer in zip(rows, answers, strict=True)]
            report.write(records)  # whatever becomes of the judges
            metrics, found = self._scored(rows, answers, problem)
        scores = report.publish(
            metrics, [a | b for a, b in zip(records, found, strict=True)], self._failed, self.sample_answers
        )
        self._measured = list(scores)
        report.took(time.perf_counter() - begin)
        return scores

    def _scored(
        self, rows: Sequence[Row], answers: Sequence[str], problem: str | None
    ) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Metrics of these answers, and what was found of each; where that fails, metrics without any of them."""
        metrics = self.metrics()
        if rows and problem is None:
            try:
                found, problem = self.attempt("judging", lambda: self.score(rows, answers, metrics))
            finally:
                self.attempt("releasing the judges", self.release)
            if found is not None:
                return metrics, found
        return self.metrics(), [{"problem": problem} for _ in rows]

    def attempt(self, what: str, do: Callable[[], T]) -> tuple[T | None, str | None]:
        """The result of ``do``, or None and what went wrong.

        Before training, and when only testing, there is nothing to lose, and the error goes on; later the weights trained
        so far are worth more than a score.
        """
        try:
            return do(), None
        except Exception as error:
            if not self._lenient:
                raise
            self._failed = True
            problem = f"{type(error).__name__}: {error}"
            rank_zero_warn(f"{self.name}: {what} failed ({problem}). What there is is kept; training goes on.")
            return None, problem

    def _answers(self, trainer: Trainer, pl_module: LightningModule, rows: Sequence[Row]) -> list[str]:
        module = cast(ChatModule, pl_module)
        tokenizer, template, attack = module.tokenizer, module.template, self.attack
        with trainer.precision_plugin.forward_context():
            return generate_answers(
                module.model,
                tokenizer,
                [template.prompt_ids(tokenizer, attack.wrapped(row.prompt), row.history, attack.opening) for row in rows],
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                temperature=attack.temperature,
                seed=trainer.global_rank,
                opening=attack.opening,
                progress=f"Scoring {self.name}" if trainer.is_global_zero else None,
            )


def _record(row: Row, answer: str) -> dict[str, Any]:
    record: dict[str, Any] = {"prompt": row.prompt, "reference": row.answer, "answer": answer}
    if row.history:
        record["history"] = [turn._asdict() for turn in row.history]
    return record | ({"prompt_categories": list(row.categories)} if row.categories else {})


def _scorers(trainer: Trainer) -> list[ScoringCallback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, ScoringCallback)]
