"""FullFineTuner: supervised fine-tuning of a model's own weights, without LoRA and without any protection."""

from collections.abc import Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from transformers import PreTrainedModel

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.fine_tuner import FineTuner
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.runtime.strategies import require_whole_weights
from asft_lightning.weights.full_training import AllLinear, train_weights
from asft_lightning.weights.pretrained import Pretrained


class FullFineTuner(FineTuner):
    """Fine-tune weight matrices of a causal LM themselves, without any protection: the baseline of :class:`FullAsFT`.

    All weights are float32 or wider, whatever the checkpoint has: steps of 1e-5 would be lost on fewer bits. For speed set
    ``trainer.precision`` to ``bf16-mixed``. What was trained is written as a whole model (:class:`AdapterCheckpoint`).

    Its hooks, and the arguments from ``loss_reduction`` on, are those of :class:`FineTuner`; the default rate is that of
    full fine-tuning in arXiv 2310.03693.

    Args:
        pretrained: The checkpoints.
        targets: Whose weight matrices are trained: linear layers by name, or by whole parts of it (``q_proj``,
            ``layers.0``); ``all-linear`` for all but the head, as in PEFT.
        template: How prompts and answers are written for the model.
        also_train: What else is trained, modules or parameters likewise: ``norm``, ``bias``, ``embed_tokens``, …
        loss_reduction: ``token`` or ``row``, see :class:`TaskLoss`.
        gradient_checkpointing: Trade time for activation memory.
        compile_backend: Run the model through ``torch.compile`` with this backend, e.g. ``inductor``; null for not.
        optimizer: From the trainable parameters to an optimizer. No weight decay unless asked for.
        lr_scheduler: ``linear`` or ``cosine``, or from the optimizer to a scheduler; null for a constant rate.

    Raises:
        ConfigurationError: If the weights are to be loaded in 4 bits, or ``lr_scheduler`` is no such name; before
            training, if a precision would round the weights; when the model is configured, if a name is of nothing in it.
    """

    model: PreTrainedModel | None

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
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, template, *tuning)
        if pretrained.load_in_4bit:
            raise ConfigurationError(
                "weights that are trained themselves must not be packed, and pretrained.load_in_4bit packs them. Leave it "
                "out, or train LoRA (LoRAFineTuner, AsFT)."
            )
        self.targets = targets
        self.also_train: Sequence[str] = also_train or ()

    def setup(self, stage: str) -> None:
        """Refuse also a precision that would round what is trained."""
        super().setup(stage)
        require_whole_weights(self.trainer.precision_plugin)

    def made_trainable(self, model: PreTrainedModel) -> PreTrainedModel:
        """``model`` in float32 or wider, with exactly ``targets`` and ``also_train`` trainable."""
        train_weights(model, self.targets, self.also_train)
        for parameter in model.parameters():
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            # What is loaded may be a mapped file: what is written to has memory of its own.
            parameter.data = parameter.data.to(dtype, copy=parameter.requires_grad)
        return model

    def fingerprint(self) -> dict[str, object]:
        """What was trained and how, to record beside a result."""
        return {**super().fingerprint(), "targets": self.targets, "also_train": list(self.also_train)}
