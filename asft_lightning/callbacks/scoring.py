"""ScoringCallback: prompts, answered while training, scored, and put where people look. What they mean is a subclass's."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics import Metric

from asft_lightning.callbacks.chat_module import ChatModule
from asft_lightning.callbacks.run_summary import RunSummary
from asft_lightning.data import Row, Source
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import generate_answers
from asft_lightning.files import write_atomically


class ScoringCallback(Callback, ABC):
    """Answer prompts greedily before training, every so often, and after; with or without it training is the same.

    Scores go to the loggers and ``summary.json``, answers to ``generations/NAME-WHEN.jsonl``, both in the run's folder.
    Prompts are rendered with the module's own ``template`` and ``tokenizer``, and spread over the ranks.

    Args:
        prompts: Where the prompts come from.
        max_prompts: How many of them, from the first; null for all.
        max_new_tokens: Longest answer in tokens.
        batch_size: Prompts a batch.
        at_start: Score before the first step.
        every_n_steps: Score every so many optimizer steps.
        every_n_epochs: Score every so many epochs.
        at_end: Score after the last step.

    Raises:
        ConfigurationError: If a number is not positive.
    """

    name: str
    """First part of its metrics' names."""

    def __init__(
        self,
        prompts: Source,
        max_prompts: int | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 32,
        at_start: bool = True,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        at_end: bool = True,
    ) -> None:
        numbers = {
            "max_prompts": max_prompts,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "every_n_steps": every_n_steps,
            "every_n_epochs": every_n_epochs,
        }
        for argument, value in numbers.items():
            if value is not None and value < 1:
                raise ConfigurationError(f"{type(self).__name__}: {argument} must be 1 or more, got {value}.")
        self.prompts = prompts
        self.max_prompts = max_prompts
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.at_start = at_start
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.at_end = at_end
        self.rows: list[Row] = []
        self._last_step = 0

    @abstractmethod
    def score(self, rows: Sequence[Row], answers: Sequence[str], metric: Metric) -> list[dict[str, Any]]:
        """Update ``metric`` with these answers; return what to write beside each, e.g. ``{"unsafe": True}``."""

    @abstractmethod
    def metric(self) -> tuple[str, Metric]:
        """A fresh metric and its name, e.g. ``("harmful_score", HarmfulScore())``."""

    def check(self, trainer: Trainer) -> None:
        """Hook: refuse prompts that must not be scored, before any training."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the prompts and check them, so that a mistake in them shows before training."""
        if not self.rows:
            self.rows = self.prompts.load()[: self.max_prompts]
        self.check(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the model as it came; not again where a run is resumed."""
        self._last_step = trainer.global_step
        if trainer.global_step:
            return
        if _scorers(trainer)[0] is self and trainer.is_global_zero:
            RunSummary(trainer.default_root_dir).start(trainer, pl_module)
        if self.at_start:
            self.run(trainer, pl_module, "before")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Score every ``every_n_steps`` optimizer steps."""
        stepped = trainer.global_step > self._last_step  # not so after a batch that only accumulates
        self._last_step = trainer.global_step
        if self.every_n_steps and stepped and trainer.global_step % self.every_n_steps == 0:
            self.run(trainer, pl_module, str(trainer.global_step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score every ``every_n_epochs`` epochs."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.run(trainer, pl_module, str(trainer.global_step))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score what was trained, and show before and after once all scorers have."""
        if self.at_end:
            self.run(trainer, pl_module, "after")
        if _scorers(trainer)[-1] is self and trainer.is_global_zero:
            RunSummary(trainer.default_root_dir).show()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the model as it is."""
        self.run(trainer, pl_module, "test")

    def run(self, trainer: Trainer, pl_module: LightningModule, when: str) -> float:
        """Answer, score, and report once; returns the score."""
        rows = self.rows[trainer.global_rank :: trainer.world_size]
        answers = self._answers(trainer, pl_module, rows)
        name, metric = self.metric()
        metric = metric.to(pl_module.device)
        records = self.score(rows, answers, metric) if rows else []
        value = float(metric.compute())
        lines = [
            {"prompt": row.prompt, "reference": row.answer, "answer": answer, **record}
            for row, answer, record in zip(rows, answers, records, strict=True)
        ]
        gathered = _gathered(lines, trainer)
        if trainer.is_global_zero:
            self._report(trainer, f"{self.name}/{name}", value, gathered, when)
        return value

    def _answers(self, trainer: Trainer, pl_module: LightningModule, rows: Sequence[Row]) -> list[str]:
        module = cast(ChatModule, pl_module)
        tokenizer, template = module.tokenizer, module.template
        with trainer.precision_plugin.forward_context():
            return generate_answers(
                module.model,
                tokenizer,
                [template.prompt_ids(tokenizer, row.prompt) for row in rows],
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                progress=f"Scoring {self.name}" if trainer.is_global_zero else None,
            )

    def _report(self, trainer: Trainer, metric: str, value: float, lines: list[dict[str, Any]], when: str) -> None:
        folder = Path(trainer.default_root_dir)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(folder / "generations" / f"{self.name}-{when}.jsonl", text)
        RunSummary(folder).record({metric: value}, when)
        if trainer.state.fn == TrainerFn.FITTING:
            for logger in trainer.loggers:
                logger.log_metrics({metric: value}, step=trainer.global_step)


def _scorers(trainer: Trainer) -> list[ScoringCallback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, ScoringCallback)]


def _gathered(lines: list[dict[str, Any]], trainer: Trainer) -> list[dict[str, Any]]:
    """Every rank's lines on every rank, in the prompts' order."""
    if trainer.world_size == 1:
        return lines
    shares: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(shares, lines)
    longest = max(len(share) for share in shares)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
