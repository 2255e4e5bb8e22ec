"""SaLoRA: Safety-alignment preserved Low-Rank Adaptation (arXiv 2501.01765), a baseline with a fixed safety module."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from asft_lightning.anchors.probe import Probe
from asft_lightning.anchors.second_moment import SecondMoment
from asft_lightning.chat.rows import prompt_hash
from asft_lightning.chat.template import Template
from asft_lightning.data import Source
from asft_lightning.data.by_turns import first_rows
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import output_directions, projected_start
from asft_lightning.modules.aligned_start import require_aligned_start
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.penalty import SafetyModule
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import write_atomically
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.runtime.reading import readable
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.targets import Target, find_lora_factors

_CAPACITY = 1024
"""Directions of a layer's inputs: more than the tokens of the usual prompts."""


class SaLoRA(LoRAFineTuner):
    """LoRA whose update puts out nothing along what unsafe prompts make a layer put out, and begins in what the task does.

    With U the leading ``safety_rank`` left singular vectors of W·X, X being a layer's inputs at the tokens that the aligned
    model begins its answers to unsafe prompts with, the update is C·B·A, C = I − UUᵀ (:class:`SafetyModule`). With ``task``
    A and B begin as the authors' (homles11/SaLoRA): A₀ = √S·Vᵀ and B₀ = PPᵀ·Ū·√S, W ≈ Ū·S·Vᵀ of rank r and P as U, of the
    task's prompts. Theirs then trains on W − C·B₀·A₀. Here W stays: a second half of the adapter holds −C·B₀ and A₀, which
    is the same, and begins at an update of 0. So the adapter that is written has twice the rank r that is trained, at the
    same scaling. It is a plain one that PEFT loads: C is folded in. What differs: inputs are those at the last token of a
    prompt and at the first 8 of the model's own answer, where theirs are those of whole given answers.

    The arguments up to ``lr_scheduler`` are those of :class:`LoRAFineTuner`; ``adapter`` must be null.

    Args:
        unsafe: Unsafe prompts, of which answers are not needed; never those that the harmful score is measured on.
        task: The task's prompts, likewise; null for LoRA's own start, all of whose rank is trained.
        num_prompts: How many of each are taken, from the first; 128 there.
        safety_rank: Directions of U; 32 there.
        task_rank: Of P; 32 there.

    Raises:
        ConfigurationError: If a number is not positive, ``adapter`` is given, or weights decay.
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
        unsafe: Source,
        task: Source | None = None,
        num_prompts: int = 64,
        safety_rank: int = 32,
        task_rank: int = 32,
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, lora, template, adapter, *tuning)
        require_aligned_start(pretrained, "SaLoRA")
        if min(num_prompts, safety_rank, task_rank) < 1 or adapter is not None:
            raise ConfigurationError(
                "SaLoRA needs num_prompts, safety_rank and task_rank of 1 or more, and begins a new adapter, got "
                f"{num_prompts}, {safety_rank}, {task_rank} and adapter {adapter!r}. Leave adapter out."
            )
        self.unsafe, self.task, self.num_prompts = unsafe, task, num_prompts
        self.safety_rank, self.task_rank = safety_rank, task_rank
        self.safety: SafetyModule | None = None

    def adapter_config(self) -> LoraConfig:
        """With a task of twice the rank at the same scaling, for what is trained and for its start."""
        return self.lora if self.task is None else _doubled(self.lora)

    def prepare_data(self) -> None:
        """Have directions and start found, on rank 0, into the run's folder."""
        super().prepare_data()
        if self._is_fitting:
            write_atomically(RunFolder.of(self.trainer).safety_module, save(self.find()))

    @torch.no_grad()
    def find(self) -> dict[str, Tensor]:
        """Of each layer ``NAME.u``, and with a task ``NAME.a`` and ``NAME.b``; from a pass over either's prompts."""
        factors = find_lora_factors(self.made_trainable(self.pretrained.load_model_on_meta()))
        targets = [factor.target for factor in factors]
        loader = replace(self.pretrained, start="aligned").load_model
        probe = Probe(loader, self.tokenizer, self.template, self.build_device, self.pretrained.loading).loaded()
        unsafe = self._inputs(probe, self.unsafe, targets)
        of_task = None if self.task is None else self._inputs(probe, self.task, targets)
        del probe  # and the model, before its weights are read again
        weights, found = open_weights(self.pretrained.aligned, self.pretrained.revision), dict[str, Tensor]()
        for target, factor in zip(targets, factors, strict=True):
            inputs = unsafe[target.name].principal(0.0)
            weight = weights.matrix(target).to(inputs.directions.device)
            found[f"{target.name}.u"] = u = output_directions(weight, inputs, self.safety_rank)
            if of_task is not None:
                outputs = output_directions(weight, of_task[target.name].principal(0.0), self.task_rank)
                a, b = projected_start(weight, outputs, factor.a.shape[0] // 2)
                found |= {f"{target.name}.a": a, f"{target.name}.b": b - u @ (u.mT @ b)}
        return {name: tensor.float().contiguous().cpu() for name, tensor in found.items()}

    def with_adapter(self, model: PreTrainedModel) -> PeftModel:
        """A new adapter; with a task, when it is trained, one that begins as :meth:`find` says."""
        adapted = super().with_adapter(model)
        factors = find_lora_factors(adapted)
        if self._is_fitting and self.task is not None and not factors[0].b.is_meta:
            found = self._found()
            for factor in factors:
                a, b = (found[f"{factor.target.name}.{name}"] for name in "ab")
                factor.a.data.copy_(torch.cat([a, a]))
                factor.b.data.copy_(torch.cat([b, -b], dim=1))
        return adapted

    def configure_model(self) -> None:
        """Load the model and, for training, bind the safety module to it."""
        super().configure_model()
        if self._is_fitting and self.safety is None:
            assert self.model is not None
            directions = {name.removesuffix(".u"): u for name, u in self._found().items() if name.endswith(".u")}
            prompts = [prompt_hash(row.prompt) for row in first_rows(self.unsafe, self.num_prompts)]
            self.safety = SafetyModule(self.model, directions, is_halved=self.task is not None, prompts=prompts)
            self.leave_to_each_rank("safety.")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of the arguments, which must leave alone what has no gradient."""
        configured = super().configure_optimizers()
        optimizer = configured["optimizer"] if isinstance(configured, Mapping) else configured
        assert isinstance(optimizer, Optimizer)
        if any(group.get("weight_decay") for group in optimizer.param_groups):
            raise ConfigurationError("SaLoRA's start must stay as it is, and weight_decay takes it away. Set it to 0.")
        return configured

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients of C·B·A, before they are clipped and looked at."""
        assert self.safety is not None
        self.safety.project()
        super().on_before_optimizer_step(optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """After the step, B = C·B."""
        super().optimizer_step(*args, **kwargs)
        assert self.safety is not None
        self.safety.hold()

    def fingerprint(self) -> dict[str, object]:
        """What was trained, and what it kept clear of."""
        settings = {"safety_rank": self.safety_rank, "task_rank": None if self.task is None else self.task_rank}
        return {**super().fingerprint(), **settings}

    @property
    def _is_fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _inputs(self, probe: Probe, source: Source, targets: list[Target]) -> dict[str, SecondMoment]:
        rows = first_rows(source, self.num_prompts)
        with torch.enable_grad():  # it goes back, too
            return probe.activations(rows, targets, "answer", _CAPACITY, 8).moments

    def _found(self) -> dict[str, Tensor]:
        file = RunFolder.of(self.trainer).safety_module
        return readable(file, lambda: load_file(file), "SaLoRA's safety module")


def _doubled(lora: LoraConfig) -> LoraConfig:
    doubled, by = copy(lora), 2**0.5 if lora.use_rslora else 2
    doubled.r, doubled.lora_alpha = 2 * lora.r, by * lora.lora_alpha
    doubled.rank_pattern = {layers: 2 * rank for layers, rank in (lora.rank_pattern or {}).items()}
    doubled.alpha_pattern = {layers: by * alpha for layers, alpha in (lora.alpha_pattern or {}).items()}
    return doubled
