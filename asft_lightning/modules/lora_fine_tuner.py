"""LoRAFineTuner: plain supervised LoRA fine-tuning (SFT), the baseline."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.fine_tuner import FineTuner
from asft_lightning.modules.lora_config import PAPER_LORA, lora_config
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.weights.adapter_factors import load_config
from asft_lightning.weights.loading import load_adapter
from asft_lightning.weights.pretrained import Pretrained

_OF_SCALING = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")
"""LoRA's settings that say what its factors amount to, beside r and α."""


class LoRAFineTuner(FineTuner):
    """Fine-tune an aligned causal LM with LoRA, without any protection: the baseline.

    Its hooks, and the arguments from ``loss_reduction`` on, are those of :class:`FineTuner`.

    Args:
        pretrained: The checkpoints.
        lora: A ``peft.LoraConfig``, or its arguments as a mapping; null for the paper's, :data:`PAPER_LORA`.
        template: How prompts and answers are written for the model.
        adapter: Go on from this adapter (directory or hub id) instead of a new one; ``lora`` is then the adapter's own.
        loss_reduction: ``token`` or ``row``, see :class:`TaskLoss`.
        gradient_checkpointing: Trade time for activation memory.
        compile_backend: Run the model through ``torch.compile`` with this backend, e.g. ``inductor``; null for not.
        optimizer: From the trainable parameters to an optimizer. No weight decay unless asked for: it would be
            shrinkage by another name.
        lr_scheduler: ``linear`` or ``cosine``, a rate that falls to 0 over the run's steps; or from the optimizer to a
            scheduler stepped once a step; null for a constant rate, as the authors.

    Raises:
        ConfigurationError: If ``lora`` has unknown arguments, or ``lr_scheduler`` is no such name.
    """

    model: PeftModel | None

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
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, template, *tuning)
        self.lora = lora_config(PAPER_LORA if lora is None else lora)
        self.adapter = adapter

    def made_trainable(self, model: PreTrainedModel) -> PeftModel:
        """``model`` with an adapter, of which the factors are trained."""
        return self.with_adapter(model)

    def adapter_config(self) -> LoraConfig:
        """Hook: of a new adapter."""
        return self.lora

    def fingerprint(self) -> dict[str, object]:
        """What was trained and how, with LoRA's settings."""
        targets = self.lora.target_modules
        lora = {
            "r": self.lora.r,
            "lora_alpha": self.lora.lora_alpha,
            "lora_dropout": self.lora.lora_dropout,
            "target_modules": sorted(targets) if isinstance(targets, set) else targets,
        }
        return {**super().fingerprint(), "lora": lora}

    def kept_settings(self) -> dict[str, object]:
        """What makes of the same factors another update."""
        return {**super().kept_settings(), "lora_scaling": {name: str(getattr(self.lora, name)) for name in _OF_SCALING}}

    def with_adapter(self, model: PreTrainedModel) -> PeftModel:
        """``model`` with a new adapter, or with the one to go on from.

        Raises:
            ConfigurationError: If LoRA does not fit the model, or the adapter is not to be had, or its settings would have
                nothing trained.
            AnchorError: If it is no LoRA adapter.
        """
        if self.adapter is None:
            try:
                return get_peft_model(model, self.adapter_config())
            except ValueError as error:  # PEFT's errors on target_modules name the rule and the value
                raise ConfigurationError(f"lora does not fit {self.pretrained.aligned}: {error}") from error
        adapted = load_adapter(model, self.adapter, self.pretrained.aligned)
        try:
            lora_config(load_config(self.adapter))
        except ConfigurationError as error:
            raise ConfigurationError(f"adapter {self.adapter} cannot be gone on from: {error}") from error
        return adapted
