"""AnswerHolding: fine-tuning held to the aligned model's own answers, or to the states that they begin from."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from asft_lightning.anchors import Answers, KeptAnswers, Probe
from asft_lightning.audit import flagged_rows
from asft_lightning.chat.rows import Row, prompt_hash
from asft_lightning.data import MixtureDataModule, Source
from asft_lightning.errors import UnpenalisedError
from asft_lightning.modules.two_gradients import TwoGradients
from asft_lightning.penalty.answer_budget import AnswerBudget
from asft_lightning.penalty.answer_penalty import AnswerPenalty
from asft_lightning.penalty.reference_penalty import ReferencePenalty
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.ranks import mean_over_ranks
from asft_lightning.runtime.trainer_callbacks import callbacks_of
from asft_lightning.weights.matrices import open_weights


class AnswerHolding(TwoGradients):
    """L = L_task + w · KL(aligned ‖ current) on the aligned model's answers to some prompts, once an optimizer step.

    A part of :class:`AsFT`, beside its anchors on the update, and of :class:`SBR`; their constructors call :meth:`hold`.
    Another distance than KL is what :meth:`distance_to` says.
    """

    answers: Answers | None
    answer_penalty: ReferencePenalty | None
    answer_budget: AnswerBudget | None
    kept_answers: KeptAnswers | None

    def hold(self, answers: Answers | None) -> None:
        """Say what is held; a subclass's constructor does.

        Args:
            answers: Which prompts, how many a step, and the weight w; None for plain fine-tuning.
        """
        self.answers = answers
        self.answer_penalty = None
        limit = None if answers is None else answers.budget
        self.answer_budget = None if answers is None or limit is None else AnswerBudget(limit, answers.weight)
        self.kept_answers = None
        self._answered_step = -1
        self._distance: Tensor | None = None

    @property
    def needs_one_closure(self) -> bool:
        """Answers are compared once a step."""
        return super().needs_one_closure or self.answers is not None

    def prepare_data(self) -> None:
        """Have the aligned model answer, on rank 0, into the run's folder; the others wait, without a timeout."""
        super().prepare_data()
        if self.answers is not None and self.trainer.state.fn == TrainerFn.FITTING:
            flagged = flagged_rows(self.trainer)
            scored = scored_prompts(self.trainer) if flagged else frozenset()
            # A poisoned file may hold prompts that are scored: those are measured, not held.
            unscored = [row for row in flagged if prompt_hash(row.prompt) not in scored]
            answers = self.build_answers(self.answers, unscored, taught_rows(self.trainer, flagged))
            answers.save(RunFolder.of(self.trainer).answers)

    def build_answers(self, answers: Answers, flagged: Sequence[Row] = (), taught: Sequence[Row] = ()) -> KeptAnswers:
        """What the aligned model answers to the prompts, from the cache if there.

        Args:
            answers: Which prompts.
            flagged: Training rows that an audit flags, see :func:`flagged_rows`.
            taught: The others, see :func:`taught_rows`.

        Raises:
            DataError: If the prompts cannot be read.
        """
        loader = replace(self.pretrained, start="aligned").load_model
        probe = Probe(loader, self.tokenizer, self.template, self.build_device, self.pretrained.loading)
        return answers.build(probe, open_weights(self.pretrained.aligned, self.pretrained.revision), flagged, taught)

    def configure_model(self) -> None:
        """Load the model and, for training, bind the answers to it."""
        super().configure_model()
        is_fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if self.answers is not None and self.kept_answers is None and is_fitting:
            self.bind_answers(KeptAnswers.load(RunFolder.of(self.trainer).answers))

    def bind_answers(self, answers: KeptAnswers) -> None:
        """Hold the configured model to these answers of the aligned model."""
        self.kept_answers = answers
        self.answer_penalty = self.distance_to(answers)
        self.leave_to_each_rank("answer_penalty.", "answer_budget.")

    def distance_to(self, answers: KeptAnswers) -> ReferencePenalty:
        """Hook: how far the configured model is from these answers."""
        assert self.model is not None and self.answers is not None
        return AnswerPenalty(self.model, answers, rows_per_step=self.answers.rows_per_step)

    def regularisation(self) -> Tensor | None:
        """The weighted distance, logged without its weight.

        It is computed once an optimizer step, and counts as if it were in each of the step's micro-batches, by whose number
        Lightning divides: the weight means the same under accumulation.
        """
        if self.answers is None:
            return None
        if self.answer_penalty is None:
            raise UnpenalisedError("training must not begin without its answers: call bind_answers(build_answers(…)) first.")
        if self._answered_step == self.global_step:
            return None
        self._answered_step = self.global_step
        distance: Tensor = self.answer_penalty(self.model, self.global_step)
        self._distance = distance.detach()
        self.show(f"train/{self.answer_penalty.figure}", self._distance)
        if self.answer_budget is None:
            return distance * (self.answers.weight * self.micro_batches)
        self.log("train/answer_weight", self.answer_budget.weight.clone())
        return distance * (self.answer_budget.weight * self.micro_batches)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and then the weight of the next: a checkpoint in the midst of a step has that of the step itself."""
        super().optimizer_step(*args, **kwargs)
        if self.answer_budget is not None and self._distance is not None:
            self.answer_budget.observe(mean_over_ranks(self._trainer, self._distance))

    def fingerprint(self) -> dict[str, Any]:
        """What was trained, how, and which answers it was held to."""
        if self.answers is None:
            return super().fingerprint()
        kept = None if self.kept_answers is None else self.kept_answers.sha256()
        return {**super().fingerprint(), "answers": asdict(self.answers), "answers_sha256": kept}


def scored_prompts(trainer: Trainer) -> frozenset[str]:
    """A hash of each prompt (:func:`prompt_hash`) that a callback scores.

    Args:
        trainer: The run.

    Raises:
        DataError: If a source of them cannot be read.
    """
    sources = [getattr(callback, "prompts", None) for callback in callbacks_of(trainer, Callback)]
    return frozenset(prompt_hash(row.prompt) for source in sources if isinstance(source, Source) for row in source.iterate())


def taught_rows(trainer: Trainer, flagged: Sequence[Row]) -> list[Row]:
    """The rows that a fit trains on, but those that its audit flags.

    Of other data than a :class:`MixtureDataModule` none is known.

    Args:
        trainer: The run.
        flagged: Rows that its audit flags.
    """
    data = getattr(trainer, "datamodule", None)
    at_fault = {row.prompt for row in flagged}
    rows = [example.row for example in data.drawn.train] if isinstance(data, MixtureDataModule) else []
    return [row for row in rows if row.prompt not in at_fault]
