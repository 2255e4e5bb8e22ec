"""SPPFT: Safely Partial-Parameter Fine-Tuning (arXiv 2408.17003), a baseline that trains no safety layer."""

import json
from collections.abc import Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.chat.template import Template
from asft_lightning.data import Source
from asft_lightning.data.by_turns import first_rows
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import cosine_gap, rising_layers
from asft_lightning.modules.aligned_start import require_aligned_start
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.runs.alignment_picture import cell_of
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.runtime.reading import readable
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.targets import find_lora_factors


class SPPFT(LoRAFineTuner):
    """Plain fine-tuning of all layers but those in which the aligned model comes to tell unsafe prompts from harmless ones.

    The adapter's factors in the safety layers are not trained. Which those are is said, or found on rank 0 before training,
    from a forward pass of the aligned model over some prompts: the layers at which :func:`cosine_gap` of the last token's
    states grows. What differs: the paper then moves their borders by how many prompts a scaled model refuses.

    The arguments up to ``lr_scheduler`` are those of :class:`LoRAFineTuner`.

    Args:
        safety_layers: Their numbers, from 0; null to find them, for which the other two are needed.
        unsafe: Unsafe prompts, of which answers are not needed; never those that the harmful score is measured on.
        harmless: Harmless prompts.
        num_prompts: How many of each are taken, from the first.

    Raises:
        ConfigurationError: If there are neither layers nor prompts, or ``pretrained.start`` is not ``aligned``; when the
            model is configured, if no layer is a safety layer, or none is left to train.
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
        safety_layers: list[int] | None = None,
        unsafe: Source | None = None,
        harmless: Source | None = None,
        num_prompts: int = 64,
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, lora, template, adapter, *tuning)
        require_aligned_start(pretrained, "SPPFT")
        if num_prompts < 2 or (safety_layers is None and (unsafe is None or harmless is None)):
            raise ConfigurationError(
                "SPPFT needs safety_layers, or unsafe and harmless prompts to find them with, two of each or more, got "
                f"num_prompts={num_prompts}, safety_layers={safety_layers}. Name them."
            )
        self.safety_layers = safety_layers
        self.unsafe, self.harmless, self.num_prompts = unsafe, harmless, num_prompts

    def prepare_data(self) -> None:
        """Have the safety layers found, on rank 0, into the run's folder."""
        if self.safety_layers is None and self.trainer.state.fn == TrainerFn.FITTING:
            gap = self.find_gap()
            content = {"layers": rising_layers(gap), "cosine_gap": gap.tolist()}
            write_json(RunFolder.of(self.trainer).safety_layers, content)
        super().prepare_data()  # an audit may ask which layers are trained

    def find_gap(self) -> torch.Tensor:
        """The aligned model's :func:`cosine_gap` (layers,) on the prompts."""
        trainer = self.trainer
        device, precision = trainer.strategy.root_device, trainer.precision_plugin
        aligned = AlignedModel(self.pretrained, self.tokenizer, self.template, device, precision=precision)
        assert self.unsafe is not None and self.harmless is not None
        harmless, unsafe = (self._states(aligned, source) for source in (self.harmless, self.unsafe))
        return cosine_gap(harmless, unsafe)

    def with_adapter(self, model: PreTrainedModel) -> PeftModel:
        """The adapter, whose factors in the safety layers are frozen."""
        adapted, layers = super().with_adapter(model), self._layers()
        factors = find_lora_factors(adapted)
        frozen = [factor for factor in factors if cell_of(factor.target.name)[0] in layers]
        if not 0 < len(frozen) < len(factors):
            raise ConfigurationError(
                f"SPPFT needs safety layers among the layers that LoRA adapts, and others to train, got {sorted(layers)}, "
                f"of which {len(frozen)} of {len(factors)} adapted matrices are. Name safety_layers, counted from 0."
            )
        for factor in frozen:
            factor.a.requires_grad_(False)
            factor.b.requires_grad_(False)
        return adapted

    def fingerprint(self) -> dict[str, object]:
        """What was trained, and what was not."""
        return {**super().fingerprint(), "safety_layers": sorted(self._layers())}

    def _layers(self) -> set[int]:
        if self.safety_layers is not None:
            return set(self.safety_layers)
        file = RunFolder.of(self.trainer).safety_layers
        return set(readable(file, lambda: json.loads(file.read_text(encoding="utf-8"))["layers"], "safety layers"))

    def _states(self, aligned: AlignedModel, source: Source) -> torch.Tensor:
        """(prompts, layers, width), float64, in the prompts' order."""
        rows = first_rows(source, self.num_prompts)
        prompts = [self.template.prompt_ids(self.tokenizer, row.prompt, row.history) for row in rows]
        places: Sequence[int]
        states = dict[int, torch.Tensor]()
        for places, of_batch in aligned.states(prompts, "Safety layers"):
            states |= dict(zip(places, of_batch, strict=True))
        return torch.stack([states[i] for i in range(len(prompts))])
