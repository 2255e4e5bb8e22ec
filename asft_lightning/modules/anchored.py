"""Anchored: fine-tuning with λ times the penalty of anchors, from where they are built to what is logged of them."""

import math
from abc import abstractmethod
from collections.abc import Sequence

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from asft_lightning.anchors import Anchor, AnchorSet, Gram, build_anchors_of, require_built_from
from asft_lightning.errors import ConfigurationError, UnpenalisedError
from asft_lightning.modules.aligned_start import require_aligned_start
from asft_lightning.modules.fine_tuner import FineTuner
from asft_lightning.penalty.binding import BoundPenalty
from asft_lightning.runs.folder import RunFolder


class Anchored(FineTuner):
    """λ·Σ_l ‖(I − C_l) ΔW_l‖²_F for any sum of anchors, whatever it is that makes ΔW.

    A part of :class:`AsFT` and of :class:`FullAsFT`; their constructors call :meth:`anchor_to`. λ means the same at any
    accumulation, batch size, world size and precision: the penalty is part of every micro-batch's loss, which Lightning
    divides by their number.
    """

    penalty: BoundPenalty | None
    anchor_set: AnchorSet | None

    def anchor_to(
        self, lambda_reg: float, anchors: Sequence[Anchor] | None, anchor_file: str | None, lambda_warmup_steps: int
    ) -> None:
        """Say what is held, and how; a subclass's constructor does.

        Args:
            lambda_reg: λ ≥ 0.
            anchors: The variants to sum; None for ``[Gram()]``.
            anchor_file: Built anchors in their place.
            lambda_warmup_steps: Optimizer steps over which λ grows linearly from 0.

        Raises:
            ConfigurationError: If a number is negative, both ``anchors`` and ``anchor_file`` are given, or training would
                not start from the aligned model.
        """
        if not (0 <= lambda_reg < math.inf and lambda_warmup_steps >= 0):
            raise ConfigurationError(
                f"lambda_reg and lambda_warmup_steps must be numbers ≥ 0, got {lambda_reg} and {lambda_warmup_steps}. "
                "The paper's λ is 1; a negative one would drive the model away from its anchor."
            )
        require_aligned_start(self.pretrained, type(self).__name__)
        if anchors is not None and anchor_file is not None:
            raise ConfigurationError(
                f"anchors are built or read, not both: got anchors and anchor_file {anchor_file!r}. Leave one out."
            )
        self.lambda_reg = lambda_reg
        self.anchors: Sequence[Anchor] = [Gram()] if anchors is None else anchors
        self.anchor_file = anchor_file
        self.lambda_warmup_steps = lambda_warmup_steps
        self.penalty = None
        self.anchor_set = None

    @property
    def holds_updates(self) -> bool:
        """Whether there is an anchor."""
        return bool(self.anchors) or self.anchor_file is not None

    @property
    def is_protected(self) -> bool:
        """Whether anything protects, or λ is 0."""
        return self.lambda_reg > 0

    def prepare_data(self) -> None:
        """Build the anchors on rank 0 and keep them in the run's folder; the others wait here, without a timeout."""
        super().prepare_data()
        if self.holds_updates and self.trainer.state.fn == TrainerFn.FITTING:
            self.build_anchors().save(RunFolder.of(self.trainer).anchors)

    def build_anchors(self) -> AnchorSet:
        """The anchors of what this run trains, found on a model without weights; from the cache or the given file if there.

        Raises:
            AnchorError: If one cannot be built, or the file's were built from another aligned model.
        """
        model = self.made_trainable(self.pretrained.load_model_on_meta())
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
        if self.holds_updates and self.anchor_set is None and is_fitting:
            self.bind(AnchorSet.load(RunFolder.of(self.trainer).anchors))

    def bind(self, anchors: AnchorSet) -> None:
        """Protect the configured model with these anchors."""
        self.protect(anchors)
        self.anchor_set = anchors
        self.leave_to_each_rank("penalty.", "budget.")
        if not self.is_protected:
            rank_zero_warn("lambda_reg is 0: this run trains without protection.")

    def on_train_start(self) -> None:
        """Say where λ would not be reached."""
        super().on_train_start()
        if not (self.holds_updates and self.lambda_warmup_steps):
            return
        steps = self.trainer.estimated_stepping_batches
        if self.lambda_warmup_steps > steps:
            rank_zero_warn(
                f"lambda_warmup_steps should be at most the run's {steps} steps, got {self.lambda_warmup_steps}: λ would "
                f"end at {self.lambda_reg * steps / self.lambda_warmup_steps:.3g} in place of {self.lambda_reg:g}. Lower it."
            )

    @abstractmethod
    def protect(self, anchors: AnchorSet) -> None:
        """Hook: set ``penalty`` to that of the configured model under these anchors."""

    def require_bound(self) -> None:
        """Refuse a step without what it is to be protected by.

        Raises:
            UnpenalisedError: If the anchors are not bound.
        """
        if self.holds_updates and self.anchor_set is None:
            raise UnpenalisedError(
                f"{type(self).__name__} must not train without its penalty: call bind(build_anchors()) first."
            )

    def penalised(self) -> Tensor | None:
        """λ·penalty, both logged; None where there is no penalty."""
        if self.penalty is None:
            return None
        strength = self.current_lambda()
        penalty: Tensor = self.penalty()
        self.log("train/penalty", penalty.detach())
        self.log("train/lambda", strength)
        return penalty * strength

    def current_lambda(self) -> float:
        """Hook: λ at this optimizer step, with the linear warm-up."""
        if self.lambda_warmup_steps == 0:
            return self.lambda_reg
        return self.lambda_reg * min(1.0, (self.global_step + 1) / self.lambda_warmup_steps)

    def kept_settings(self) -> dict[str, object]:
        """How strong the penalty is, beside λ."""
        return {**super().kept_settings(), "lambda_warmup_steps": self.lambda_warmup_steps}

    def fingerprint(self) -> dict[str, object]:
        """What was trained, how, and what protected it."""
        if self.anchor_set is None:
            anchors: dict[str, object] = {"anchors": [anchor.settings() for anchor in self.anchors]}
        else:
            terms = [dict(term.settings) for term in self.anchor_set.terms]
            anchors = {"anchors": terms, "anchors_sha256": self.anchor_set.sha256()}
        return {**super().fingerprint(), "lambda_reg": self.lambda_reg, **anchors}
