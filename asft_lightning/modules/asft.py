"""AsFT: fine-tuning anchored to the alignment direction (arXiv 2506.08473)."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import STEP_OUTPUT
from peft import LoraConfig
from torch import Tensor

from asft_lightning.anchors import Anchor, AnchorSet, Answers
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.anchored import Anchored
from asft_lightning.modules.answer_holding import AnswerHolding
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.modules.two_gradients import Conflict
from asft_lightning.penalty.drift_budget import DriftBudget, require_budget, require_one_to_limit
from asft_lightning.penalty.held_update import HeldUpdate
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.weights.pretrained import Pretrained


class AsFT(Anchored, AnswerHolding):
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
        self.anchor_to(lambda_reg, anchors, anchor_file, lambda_warmup_steps)
        if anchors == [] and anchor_file is None and answers is None:
            raise ConfigurationError(
                "AsFT needs something to hold the model by, and anchors is an empty list. Leave it out for Gram, "
                "name an anchor, or give answers."
            )
        if drift_budget is not None:
            require_budget(drift_budget)
            require_one_to_limit(anchors)
        self.drift_budget = drift_budget
        self.scale_update = scale_update
        self.allow_unpenalised = allow_unpenalised
        self.anchors_on_host = anchors_on_host
        self.budget: DriftBudget | None = None
        self._multiplier = 0.0

    @property
    def is_protected(self) -> bool:
        """Whether anything protects: λ, a budget, or answers."""
        return super().is_protected or self.budget is not None or self.answers is not None

    def protect(self, anchors: AnchorSet) -> None:
        """Penalise or limit the update of the configured model."""
        assert self.model is not None
        self.penalty, self.budget = HeldUpdate.of(
            self.model,
            anchors,
            self.drift_budget,
            scale_update=self.scale_update,
            resumed=self.adapter is not None,
            allow_unpenalised=self.allow_unpenalised,
            anchors_on_host=self.anchors_on_host,
        )
        if self.penalty is None and self.conflict == "project" and self.answers is None:
            raise ConfigurationError(
                "conflict: project needs something with a gradient that protects, and a drift budget alone has none. Leave "
                "conflict out, or give answers."
            )

    def regularisation(self) -> Tensor | None:
        """λ·penalty and the weighted divergence of answers, all logged, and the drift where it is limited."""
        self.require_bound()
        if self.budget is not None:
            self.show("train/drift", self.budget.drift())
        parts = [part for part in (self.penalised(), super().regularisation()) if part is not None]
        return self.apart(torch.stack(parts).sum() if parts else None)

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

    def kept_settings(self) -> dict[str, object]:
        """Which update is penalised."""
        return {**super().kept_settings(), "scale_update": self.scale_update}

    def fingerprint(self) -> dict[str, object]:
        """What was trained, how, and what protected it."""
        return {**super().fingerprint(), "drift_budget": self.drift_budget, "conflict": self.conflict}
