"""SBR: Safety Bottleneck Regularization (arXiv 2605.05995), a baseline that holds hidden states."""

import math

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import LoraConfig

from asft_lightning.anchors import Answers, KeptAnswers
from asft_lightning.chat.template import Template
from asft_lightning.data import Source
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.aligned_start import require_aligned_start
from asft_lightning.modules.answer_holding import AnswerHolding
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.penalty.state_penalty import StatePenalty
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.weights.pretrained import Pretrained


class SBR(AnswerHolding):
    """L = L_task + w · MSE(h, h_aligned), h being what the head is given at the last token of each of a few unsafe prompts.

    As the authors' code (soyoaaa/SBR): the mean over prompts and width, in float32, of all prompts at each step. The aligned
    model's states are found once, before training, and kept as :class:`AsFT` keeps answers. What differs: theirs are found
    by the 4-bit model that is trained; ours by the aligned model as ``pretrained`` loads it, also where an adapter goes on.

    The arguments up to ``lr_scheduler`` are those of :class:`LoRAFineTuner`.

    Args:
        prompts: Unsafe prompts; answers are not needed nor looked at. Never those that the harmful score is measured on.
        num_prompts: How many of them, from the first; 8 in the authors' script.
        weight: w > 0; 50 there.

    Raises:
        ConfigurationError: If a number cannot be, or ``pretrained.start`` is not ``aligned``.
        UnpenalisedError: When the model is configured, if its head is trained.
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
        *,
        prompts: Source,
        num_prompts: int = 8,
        weight: float = 50.0,
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, lora, template, adapter, *tuning)
        require_aligned_start(pretrained, "SBR")
        if num_prompts < 1 or not 0 < weight < math.inf:
            raise ConfigurationError(
                f"SBR needs num_prompts of 1 or more and a weight above 0, got {num_prompts} and {weight}. The authors' are "
                "8 and 50."
            )
        self.hold(
            Answers(
                prompts,
                flagged=False,
                num_prompts=num_prompts,
                max_new_tokens=0,
                rows_per_step=num_prompts,
                weight=weight,
            )
        )

    def distance_to(self, answers: KeptAnswers) -> StatePenalty:
        """The states at the last token of all prompts, of which there may be fewer than were asked for."""
        assert self.model is not None
        return StatePenalty(self.model, answers, rows_per_step=len(answers.input_ids))
