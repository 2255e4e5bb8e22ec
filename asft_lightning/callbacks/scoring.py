"""ScoringCallback: prompts, answered while training, scored, and put where people look. What they mean is a subclass's."""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torchmetrics import Metric

from asft_lightning.callbacks.attempts import Attempts
from asft_lightning.callbacks.decisions import check_deciders, withdraw
from asft_lightning.callbacks.protocols import ChatModule, chat_module
from asft_lightning.callbacks.questions import Asking, Questions
from asft_lightning.callbacks.scheduled import ScheduledCallback
from asft_lightning.callbacks.scoring_report import ScoringReport
from asft_lightning.chat.rows import Row
from asft_lightning.chat.thoughts import split_thought
from asft_lightning.data import Source
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import Attack
from asft_lightning.evaluation.finding import Finding, Findings, ScoredAnswer
from asft_lightning.runs.facts import facts_of
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.ending import alone, asking
from asft_lightning.runtime.names import require_name
from asft_lightning.runtime.trainer_callbacks import callbacks_of
from asft_lightning.runtime.undisturbed import undisturbed


@dataclass(eq=False, kw_only=True)
class ScoringCallback(ScheduledCallback, Attempts):
    """Answer a set of prompts before training, every so often, and after; with or without it training is the same.

    Scores go to the loggers, to ``trainer.callback_metrics`` (for ``ModelCheckpoint`` and ``EarlyStopping``) and to
    ``summary.json``, answers to ``generations/NAME-WHEN.jsonl``, both in the run's folder. Prompts are rendered with the
    module's own ``template`` and ``tokenizer``, and spread over the ranks. Several sets are several callbacks, by name.

    Answering and judging may fail: before training that is an error; later what there is is kept, the failure is reported,
    and training goes on. When it is done is told as for :class:`ScheduledCallback`.

    Args:
        prompts: Where the prompts come from.
        name: First part of the scores' names; null for the kind of scoring. Each callback of a run needs its own.
        attack: How the prompts are asked: wrapped, with the answer begun, or sampled several times.
        max_prompts: How many of them, from the first; null for all.
        max_new_tokens: Longest answer in tokens.
        batch_size: Prompts a batch.
        score_thoughts: Score what a model thinks before its answer (``<think>…</think>``) together with it; else the answer
            alone, and the reference's. Both are written as they came.
        sample_answers: How many answers to show as a table in loggers that have tables or texts.

    Raises:
        ConfigurationError: If a number is not positive, or the name is no name of a file; before anything is scored, if the
            module has no model, tokenizer or template.
    """

    kind: ClassVar[str]
    """What the scores of a subclass are called where ``name`` does not say."""

    prompts: Source = field(kw_only=False)
    name: str | None = None
    attack: Attack = Attack()  # noqa: RUF009 (frozen)
    max_prompts: int | None = None
    max_new_tokens: int = 64
    batch_size: int = 32
    score_thoughts: bool = False
    sample_answers: int = 8

    def __post_init__(self) -> None:
        """Refuse what could not be scored."""
        super().__post_init__()
        self.require_positive(max_prompts=self.max_prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        require_name("name", self.label)
        self.rows: list[Row] = []
        self._measured: list[str] = []

    @property
    def label(self) -> str:
        """First part of the scores' names."""
        return self.kind if self.name is None else self.name

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics by name, e.g. ``{"harmful_score": HarmfulScore()}``."""

    @abstractmethod
    def score(self, rows: Sequence[Row], answers: Sequence[str], metrics: dict[str, Metric]) -> Sequence[Findings]:
        """Update ``metrics`` with these answers; return what was found of each, by judge where there are several.

        Answers, and the rows' own, come without their thoughts, unless ``score_thoughts`` says otherwise. A row stands there
        ``attack.samples`` times in a row, with another answer each. An answer that could not be scored gets a finding with a
        ``problem`` that says why, and is left out of the metrics. Whatever may fail goes through :meth:`attempt`.
        """

    def check(self, trainer: Trainer) -> None:
        """Hook: refuse prompts that must not be scored, before any training."""

    def require_new(self, protecting: nn.Module) -> None:
        """Hook: refuse prompts that what protects the model was made from, wherever in a module that is."""

    def release(self) -> None:
        """Hook: leave the accelerator, when a scoring is done."""

    @property
    def categories(self) -> list[str]:
        """The kinds of harm that the prompts are about, for scores by category."""
        return sorted({category for row in self.rows for category in row.categories})

    @property
    def scores(self) -> list[str]:
        """The names of what is measured, e.g. ``safety/harmful_score``."""
        return [f"{self.label}/{metric}" for metric in self.metrics()]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the prompts and check them, so that a mistake in them shows before training."""
        self.load_rows()
        if [scorer.label for scorer in callbacks_of(trainer, ScoringCallback)].count(self.label) > 1:
            raise ConfigurationError(
                f"each scoring callback needs a name of its own, and several are {self.label!r}. Set `name`."
            )
        self.check(trainer)

    def load_rows(self) -> None:
        """Read the prompts, once."""
        if not self.rows:
            self.rows = list(islice(self.prompts.iterate(), self.max_prompts))

    def is_missing(self, trainer: Trainer, moment: Moment) -> bool:
        """Whether one of its scores is not there."""
        summary = Summary.read(RunFolder.of(trainer))
        return any(moment not in summary.score(name).values for name in self.scores)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the run's summary, and score the model as it came."""
        chat_module(self, pl_module)
        self.require_new(pl_module)
        check_deciders(trainer, self, self.scores)
        withdraw(trainer, self.scores)
        is_new = not (trainer.global_step and RunFolder.of(trainer).summary.is_file())
        if is_new and callbacks_of(trainer, ScoringCallback)[0] is self and trainer.is_global_zero:
            Summary(facts_of(trainer, pl_module)).write(RunFolder.of(trainer))
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """What was measured is about to be no longer so."""
        withdraw(trainer, self._measured)
        self._measured = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score what was trained, and show before and after once all scorers have."""
        super().on_train_end(trainer, pl_module)
        if self._speaks_for_all(trainer):
            Summary.read(folder := RunFolder.of(trainer)).show(folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the model as it is, and show the scores once all scorers have."""
        super().on_test_end(trainer, pl_module)
        if self._speaks_for_all(trainer):
            Summary.read(folder := RunFolder.of(trainer)).show_test(folder)

    def _speaks_for_all(self, trainer: Trainer) -> bool:
        """Whether it is the last to score, on the rank that says so."""
        return callbacks_of(trainer, ScoringCallback)[-1] is self and trainer.is_global_zero

    def run(self, trainer: Trainer, pl_module: LightningModule, moment: Moment) -> dict[str, float]:
        """Answer, score, and report once; returns the scores, NaN where nothing could be scored.

        Every rank takes part to the end, also one whose model or judge failed: the others wait for it. What tells the run
        to end is heard before each batch of answers, and while judges are at work.
        """
        begin = time.perf_counter()
        rows = self.rows_to_ask(trainer.global_rank, trainer.world_size)
        report = ScoringReport(trainer, self.label, moment, self.attack.samples)
        most_rows = -(-len(self.rows) // trainer.world_size) * self.attack.samples  # of a rank
        questions = asking(trainer, -(-most_rows // self.batch_size))
        how = Asking(trainer.precision_plugin.forward_context, trainer.global_rank, lambda: next(questions, None))
        chat = chat_module(self, pl_module)
        with undisturbed(chat.model):
            given, problem = self.answered(chat, rows, how, moment)
            for _ in questions:  # a rank with fewer batches, or whose model failed, asks as often as the others
                continue
            report.write(given)  # whatever becomes of the judges
            metrics, findings = alone(trainer, lambda: self.scored(given, problem))
        scored = [replace(answer, findings=told) for answer, told in zip(given, findings, strict=True)]
        scores = report.publish(metrics, scored, self._has_failed, self.sample_answers)
        self._measured = list(scores)
        report.took(time.perf_counter() - begin)
        return scores

    def rows_to_ask(self, rank: int, world: int) -> list[Row]:
        """The prompts that a rank answers, each as often as it is to be answered."""
        return [row for row in self.rows[rank::world] for _ in range(self.attack.samples)]

    def answered(
        self, chat: ChatModule, rows: Sequence[Row], how: Asking, moment: Moment
    ) -> tuple[list[ScoredAnswer], str | None]:
        """What the model says, in whoever's trainer; blank answers and what went wrong where it could say nothing."""
        self.begin(moment)
        given, problem = self.attempt("answering", lambda: self._answers(chat, rows, how))
        return [ScoredAnswer(row, "", "") for row in rows] if given is None else given, problem

    def reference(self, row: Row) -> str:
        """What a row's answer is compared by."""
        return row.answer if self.score_thoughts else split_thought(row.answer).answer

    def scored(
        self, given: Sequence[ScoredAnswer], problem: str | None = None
    ) -> tuple[dict[str, Metric], Sequence[Mapping[str, Finding]]]:
        """Metrics of these answers, and what was found of each; where that fails, metrics without any of them."""
        metrics = self.metrics()
        rows = [answer.row._replace(answer=self.reference(answer.row)) for answer in given]
        answers = [answer.scored for answer in given]
        if rows and problem is None:
            try:
                findings, problem = self.attempt("judging", lambda: self.score(rows, answers, metrics))
            finally:
                self.attempt("releasing the judges", self.release)
            if findings is not None:
                return metrics, [{"": told} if isinstance(told, Finding) else told for told in findings]
        return self.metrics(), [{"": Finding({}, problem=problem)} for _ in rows]

    def _answers(self, chat: ChatModule, rows: Sequence[Row], how: Asking) -> list[ScoredAnswer]:
        """What the model says, and what of it is to be scored."""
        asked = Questions(rows, chat.tokenizer, chat.template, self.attack)
        with how.precision():
            return asked.answers(
                chat.model,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                score_thoughts=self.score_thoughts,
                seed=how.rank,
                progress=None if how.rank else f"Scoring {self.label}",
                before_batch=how.before_batch,
            )
