"""AsFT: fine-tuning anchored to the alignment direction (arXiv 2506.08473)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from peft import LoraConfig
from torch import Tensor

from asft_lightning.anchors import (
    Anchor,
    AnchorSet,
    Answers,
    Gram,
    build_anchors_of,
    require_built_from,
)
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError, UnpenalisedError
from asft_lightning.modules.aligned_start import require_aligned_start
from asft_lightning.modules.answer_holding import AnswerHolding
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.modules.two_gradients import Conflict
from asft_lightning.penalty.drift_budget import DriftBudget, require_budget, require_one_to_limit
from asft_lightning.penalty.update_penalty import UpdatePenalty
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.weights.pretrained import Pretrained


class AsFT(AnswerHolding):
    """L = L_task + λ Σ_l ‖(I − C_l) B_l A_l‖²_F (Eq. 4), for any sum of anchors.

    λ means the same at any accumulation, batch size, world size and precision: the penalty is part of every
    micro-batch's loss, which Lightning divides by their number.

    The arguments up to ``lr_scheduler`` are those of :class:`LoRAFineTuner`.

    Args:
        lambda_reg: λ ≥ 0; the paper's 1, useful from 0.1 to 10 there. 0 trains without protection, and says so.
        anchors: The variants to sum; null for ``[Gram()]``, the authors'; ``[]`` for none beside ``answers``.
        drift_budget: Limit the drift, how far the update takes the model on unsafe prompts, to this (recommended is 0.3) by
            :class:`DriftBudget`, instead of penalising it: for one ``Activation`` among the anchors, which then needs no
            λ. Other anchors are penalised with λ as ever.
        anchor_file: Take built anchors instead: a file of ``asft-lightning anchors build``, or a hub repository with one.
        lambda_warmup_steps: Optimizer steps over which λ grows linearly from 0.
        scale_update: Penalise (α/r)·BA, the true update, instead of the authors' bare BA.
        allow_unpenalised: Let other parameters be trained as well, unseen by the penalty.
        anchors_on_host: Keep the anchors in host memory: device memory for time.
        answers: Also hold the model's answers to some prompts, with a weight or a budget of its own: :class:`Answers`.
        conflict: What becomes of the task's gradient where it goes against that of all that protects: ``add`` adds them up;
            ``project`` first takes out of the task's what lies against the other, over all trained parameters as one vector.

    Raises:
        ConfigurationError: If ``lambda_reg`` or ``lambda_warmup_steps`` is negative, ``drift_budget`` is not positive, or
            both ``anchors`` and ``anchor_file`` are given; when the model is configured, if a budget finds not one
            ``Activation``.
        UnpenalisedError: When the model is configured, if something would be trained that no anchor sees.
        AnchorError: When the anchors are built, if one cannot be.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        lora: PlainData | LoraConfig | None = None,
        template: Template = Template(),  # noqa: B008 (frozen)
        adapter: str | None = None,
        loss_reduction: LossReduction = "token",
        gradient_checkpointing: bool = False,
        compile_backend: str | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=5e-5, weight_decay=0.0),
        lr_scheduler: Decay | LRSchedulerCallable | None = None,
        lambda_reg: float = 1.0,
        anchors: list[Anchor] | None = None,
        drift_budget: float | None = None,
        anchor_file: str | None = None,
        lambda_warmup_steps: int = 0,
        scale_update: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
        answers: Answers | None = None,
        conflict: Conflict = "add",
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, lora, template, adapter, *tuning)
        self.settle(conflict)
        self.hold(answers)
        if not (0 <= lambda_reg < math.inf and lambda_warmup_steps >= 0):
            raise ConfigurationError(
                f"lambda_reg and lambda_warmup_steps must be numbers ≥ 0, got {lambda_reg} and {lambda_warmup_steps}. "
                "The paper's λ is 1; a negative one would drive the model away from its anchor."
            )
        require_aligned_start(pretrained, "AsFT")
        if anchors is not None and anchor_file is not None:
            raise ConfigurationError(
                f"anchors are built or read, not both: got anchors and anchor_file {anchor_file!r}. Leave one out."
            )
        if anchors == [] and anchor_file is None and answers is None:
            raise ConfigurationError(
                "AsFT needs something to hold the model by, and anchors is an empty list. Leave it out for Gram, "
                "name an anchor, or give answers."
            )
        if drift_budget is not None:
            require_budget(drift_budget)
            require_one_to_limit(anchors)
        self.lambda_reg = lambda_reg
        self.anchors: Sequence[Anchor] = [Gram()] if anchors is None else anchors
        self.drift_budget = drift_budget
        self.anchor_file = anchor_file
        self.lambda_warmup_steps = lambda_warmup_steps
        self.scale_update = scale_update
        self.allow_unpenalised = allow_unpenalised
        self.anchors_on_host = anchors_on_host
        self.penalty: UpdatePenalty | None = None
        self.budget: DriftBudget | None = None
        self.anchor_set: AnchorSet | None = None
        self._multiplier = 0.0

    def prepare_data(self) -> None:
        """Build the anchors on rank 0 and keep them in the run's folder; the others wait here, without a timeout."""
        super().prepare_data()
        if self._holds_updates and self.trainer.state.fn == TrainerFn.FITTING:
            self.build_anchors().save(RunFolder.of(self.trainer).anchors)

    @property
    def _holds_updates(self) -> bool:
        return bool(self.anchors) or self.anchor_file is not None

    def build_anchors(self) -> AnchorSet:
        """The anchors of this run's targets, found on a model without weights; from the cache or the given file if there.

        Raises:
            AnchorError: If one cannot be built, or the file's were built from another aligned model.
        """
        model = self.with_adapter(self.pretrained.load_model_on_meta())
        if self.anchor_file is not None:
            anchors = AnchorSet.load(self.anchor_file)
            require_built_from(anchors, model, self.pretrained.aligned, self.pretrained.revision)
            return anchors
        tokenizer, device = lambda: self.tokenizer, self.build_device
        return build_anchors_of(self.pretrained, model, self.anchors, tokenizer, self.template, run_on=device)

    def configure_model(self) -> None:
        """Load the model and, for training, bind the anchors to it."""
        super().configure_model()
        is_fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if self._holds_updates and self.anchor_set is None and is_fitting:
            self.bind(AnchorSet.load(RunFolder.of(self.trainer).anchors))

    def bind(self, anchors: AnchorSet) -> None:
        """Protect the configured model with these anchors."""
        assert self.model is not None
        self.anchor_set = anchors
        options = {
            "resumed": self.adapter is not None,
            "allow_unpenalised": self.allow_unpenalised,
            "anchors_on_host": self.anchors_on_host,
        }
        penalised = anchors
        if self.drift_budget is not None:
            self.budget = DriftBudget(self.model, anchors, self.drift_budget, **options)
            penalised = replace(anchors, terms=tuple(term for term in anchors.terms if not term.relative))
        if penalised.terms:
            self.penalty = UpdatePenalty(self.model, penalised, scale_update=self.scale_update, **options)
        elif self.conflict == "project" and self.answers is None:
            raise ConfigurationError(
                "conflict: project needs something with a gradient that protects, and a drift budget alone has none. Leave "
                "conflict out, or give answers."
            )
        self.leave_to_each_rank("penalty.", "budget.")
        if self.lambda_reg == 0 and self.budget is None and self.answers is None:
            rank_zero_warn("lambda_reg is 0: this run trains without protection.")

    def regularisation(self) -> Tensor | None:
        """λ·penalty and the weighted divergence of answers, all logged, and the drift where it is limited."""
        if self._holds_updates and self.anchor_set is None:
            raise UnpenalisedError("AsFT must not train without its penalty: call bind(build_anchors()) first.")
        parts = [part for part in (self._penalised(), super().regularisation()) if part is not None]
        return self.apart(torch.stack(parts).sum() if parts else None)

    def _penalised(self) -> Tensor | None:
        if self.budget is not None:
            self.show("train/drift", self.budget.drift())
        if self.penalty is None:
            return None
        strength = self.current_lambda()
        penalty: Tensor = self.penalty()
        self.log("train/penalty", penalty.detach())
        self.log("train/lambda", strength)
        return penalty * strength

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and back into the drift budget where it led out of it."""
        super().optimizer_step(*args, **kwargs)
        if self.budget is not None:
            self._multiplier = self.budget.hold()

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log what it took to keep the drift budget."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.budget is not None:
            self.log("train/budget_multiplier", self._multiplier)

    def current_lambda(self) -> float:
        """Hook: λ at this optimizer step, with the linear warm-up."""
        if self.lambda_warmup_steps == 0:
            return self.lambda_reg
        return self.lambda_reg * min(1.0, (self.global_step + 1) / self.lambda_warmup_steps)

    def fingerprint(self) -> dict[str, object]:
        """What was trained, how, and what protected it."""
        if self.anchor_set is None:
            anchors: dict[str, object] = {"anchors": [anchor.settings() for anchor in self.anchors]}
        else:
            terms = [dict(term.settings) for term in self.anchor_set.terms]
            anchors = {"anchors": terms, "anchors_sha256": self.anchor_set.sha256()}
        settings = {name: getattr(self, name) for name in ("lambda_reg", "drift_budget", "conflict")}
        return {**super().fingerprint(), **settings, **anchors}
