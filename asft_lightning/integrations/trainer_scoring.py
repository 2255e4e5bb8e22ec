"""TrainerScoring: this package's scoring callbacks in a ``transformers.Trainer``, and any trainer made of it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft_lightning.callbacks.questions import Asking
from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.callbacks.scoring_report import computed, of_all_ranks, require_some_scored, write_answers
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.integrations.asft_trainer import AsFTTrainer
from asft_lightning.integrations.supported import require_whole, tokenizer_of
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runtime.undisturbed import undisturbed


@dataclass
class _Chat:
    """What a scorer asks."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template


class TrainerScoring(TrainerCallback):  # type: ignore[misc]
    """Scores a trainer's model when the scorers say so, into the trainer's own log; training is the same without it.

    Add it to the trainer: ``trainer.add_callback(TrainerScoring(trainer, SafetyEvaluation(prompts, every_n_steps=50)))``.
    The figures are those of the scorers in a Lightning run, under the same names. Answers are written to
    ``generations/NAME-WHEN.jsonl`` in ``args.output_dir``. The prompts are spread over the ranks.

    Args:
        trainer: The trainer.
        scorers: What to score, when, and by which judges: ``SafetyEvaluation``, ``RefusalEvaluation``, …
        template: How prompts are written for the model: as in the training rows. None for that of an
            :class:`AsFTTrainer`, or the tokenizer's chat template.

    Raises:
        ConfigurationError: If there is no scorer, two have one name, the trainer has no tokenizer, or it shards the model.
        DataError: If prompts cannot be read, or are those that the model is held by.
    """

    def __init__(self, trainer: Trainer, *scorers: ScoringCallback, template: Template | None = None) -> None:
        labels = [scorer.label for scorer in scorers]
        if not scorers or len(set(labels)) < len(labels):
            raise ConfigurationError(
                f"TrainerScoring needs a scorer or more, each with a name of its own, got {', '.join(labels) or 'none'}. "
                "Set `name`, or give SafetyEvaluation(prompts)."
            )
        require_whole(trainer, "scored")
        is_held = isinstance(trainer, AsFTTrainer)
        own = trainer.template if is_held else Template()
        self._trainer, self._scorers = trainer, scorers
        self._tokenizer, self._template = tokenizer_of(trainer, "scoring"), own if template is None else template
        for scorer in scorers:
            scorer.load_rows()
            if is_held:
                scorer.require_new(trainer.protection.parts)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The model as it came."""
        for scorer in self._scorers:
            if scorer.at_start and not state.global_step:
                self._score(scorer, Moment.BEFORE)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Every ``every_n_steps`` optimizer steps."""
        for scorer in self._scorers:
            if scorer.is_due(state.global_step, scorer.every_n_steps):
                self._score(scorer, Moment.at(state.global_step))

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Every ``every_n_epochs`` epochs; one that is broken off counts, as in Lightning."""
        for scorer in self._scorers:
            if scorer.is_due(math.ceil(state.epoch or 0), scorer.every_n_epochs):
                self._score(scorer, Moment.at(state.global_step))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What was trained."""
        for scorer in self._scorers:
            if scorer.at_end:
                self._score(scorer, Moment.AFTER)

    def _score(self, scorer: ScoringCallback, moment: Moment) -> None:
        args, accelerator = self._trainer.args, self._trainer.accelerator
        rows = scorer.rows_to_ask(args.process_index, args.world_size)
        chat = _Chat(self._trainer.model, self._tokenizer, self._template)  # a trainer may have made its model anew
        # A log in eval mode leaves alone what a trainer gathers of its steps until it logs them itself.
        with undisturbed(chat.model):
            how = Asking(accelerator.autocast, args.process_index)
            given, problem = scorer.answered(chat, rows, how, moment)
            metrics, findings = scorer.scored(given, problem)
            if args.world_size > 1:
                for metric in metrics.values():
                    metric.to(args.device)  # where the ranks can add up
            scores = {name: score for name, score in computed(scorer.label, metrics).items() if not math.isnan(score)}
            told = [replace(answer, findings=found) for answer, found in zip(given, findings, strict=True)]
            answers = of_all_ranks(told, scorer.attack.samples)
            if moment == Moment.BEFORE:
                require_some_scored(scorer.label, scores, answers)
            if args.should_save:
                write_answers(RunFolder(Path(args.output_dir)).generations(scorer.label, moment), answers)
            self._log(scores)

    def _log(self, scores: dict[str, float]) -> None:
        """Into the trainer's log, after which it would leave out what it was about to log of this step itself."""
        control = self._trainer.control
        is_about_to_log = control.should_log
        self._trainer.log(scores)
        control.should_log = is_about_to_log
