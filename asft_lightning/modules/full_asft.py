"""FullAsFT: AsFT for full fine-tuning, of a model's own weights instead of LoRA factors."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from asft_lightning.anchors import Anchor, AnchorSet
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.anchored import Anchored
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.full_fine_tuner import FullFineTuner
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.penalty.full_update_penalty import FullUpdatePenalty
from asft_lightning.weights.full_training import AllLinear
from asft_lightning.weights.pretrained import Pretrained


class FullAsFT(Anchored, FullFineTuner):
    """L = L_task + λ Σ_l ‖(I − C_l) ΔW_l‖²_F with ΔW = W − W_aligned, for any sum of anchors.

    The arguments up to ``lr_scheduler`` are those of :class:`FullFineTuner`; of ``targets`` each has its anchor. The others
    are those of :class:`AsFT`, but that ΔW is the true update: there is no α/r.

    Args:
        lambda_reg: λ ≥ 0. 0 trains without protection, and says so.
        anchors: The variants to sum; null for ``[Gram()]``.
        anchor_file: Take built anchors instead: a file of ``asft-lightning anchors build`` for LoRA on the same layers, or
            a hub repository with one.
        lambda_warmup_steps: Optimizer steps over which λ grows linearly from 0.
        allow_unpenalised: Let what ``also_train`` names be trained, unseen by the penalty; it is logged by name.
        anchors_on_host: Keep the anchors in host memory: device memory for time.
        aligned_on_host: Keep the copy of the aligned weights there likewise.

    Raises:
        ConfigurationError: If ``lambda_reg`` or ``lambda_warmup_steps`` is negative, ``anchors`` is empty, or both it and
            ``anchor_file`` are given.
        UnpenalisedError: When the model is configured, if something would be trained that no anchor sees.
        AnchorError: When the anchors are built, if one cannot be.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        targets: list[str] | AllLinear = "all-linear",
        template: Template = Template(),  # noqa: B008 (frozen)
        also_train: list[str] | None = None,
        loss_reduction: LossReduction = "token",
        gradient_checkpointing: bool = False,
        compile_backend: str | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=2e-5, weight_decay=0.0),
        lr_scheduler: Decay | LRSchedulerCallable | None = None,
        lambda_reg: float = 1.0,
        anchors: list[Anchor] | None = None,
        anchor_file: str | None = None,
        lambda_warmup_steps: int = 0,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
        aligned_on_host: bool = False,
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, targets, template, also_train, *tuning)
        self.anchor_to(lambda_reg, anchors, anchor_file, lambda_warmup_steps)
        if not self.holds_updates:
            raise ConfigurationError(
                "FullAsFT needs something to hold the model by, and anchors is an empty list. Leave it out for Gram, or "
                "name an anchor."
            )
        self.allow_unpenalised = allow_unpenalised
        self.anchors_on_host = anchors_on_host
        self.aligned_on_host = aligned_on_host

    def protect(self, anchors: AnchorSet) -> None:
        """Penalise how far the configured model moves from what it is now."""
        assert self.model is not None
        self.penalty = FullUpdatePenalty(
            self.model,
            anchors,
            allow_unpenalised=self.allow_unpenalised,
            anchors_on_host=self.anchors_on_host,
            aligned_on_host=self.aligned_on_host,
        )

    def regularisation(self) -> Tensor | None:
        """λ·penalty, logged."""
        self.require_bound()
        return self.penalised()
