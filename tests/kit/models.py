"""Real Transformers models with random weights, small enough for a test, and PEFT adapters on them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config

from asft_lightning import UpdatePenalty
from asft_lightning.anchors import Anchor, Gram, ModuleAnchor, build_anchors
from asft_lightning.functional import QuadraticForm
from kit.references import dense_penalty, orthonormal

EXACT = Gram(tolerance=0)

_DECODER: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
_CHAT: dict[str, Any] = {
    "vocab_size": 262, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_CONFIGS: dict[str, Callable[..., Any]] = {
    "chat": lambda layers, **more: LlamaConfig(num_hidden_layers=layers, **_CHAT | more),
    "llama": lambda layers, **more: LlamaConfig(num_hidden_layers=layers, **_DECODER | more),
    "qwen2": lambda layers, **more: Qwen2Config(num_hidden_layers=layers, **_DECODER | more),
    "gemma2": lambda layers, **more: Gemma2Config(num_hidden_layers=layers, **_DECODER | more),
    "gpt2": lambda layers, **more: GPT2Config(
        **{"n_layer": layers, "n_embd": 16, "n_head": 4, "vocab_size": 32, "n_positions": 64} | more
    ),
}
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen2": ["q_proj", "k_proj", "up_proj"],
    "gemma2": ["q_proj", "v_proj", "o_proj"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
}


@dataclass(frozen=True)
class Pair:
    """An aligned and a base model, both plain."""

    kind: str
    aligned: PreTrainedModel
    base: PreTrainedModel

    def direction(self, name: str) -> Tensor:
        """V (d_out, d_in) in float64, from the live weights."""
        v = _weight(self.aligned, name) - _weight(self.base, name)
        return v.mT if self.kind == "gpt2" else v


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight").detach().double()


def tiny_model(kind: str = "llama", seed: int = 0, layers: int = 2, **config: Any) -> PreTrainedModel:
    """Random float32 weights; ``chat`` is a Llama for the byte-level tokenizer, the others only for matrices of weights."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(_CONFIGS[kind](layers, **config)).eval()


def tiny_pair(kind: str = "llama", layers: int = 2, scale: float = 0.1) -> Pair:
    aligned = tiny_model(kind, layers=layers)
    base = deepcopy(aligned)
    torch.manual_seed(1)
    for parameter in base.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return Pair(kind, aligned, base)


def with_lora(model: nn.Module, **settings: Any) -> PeftModel:
    """A copy of ``model`` under a new adapter."""
    return get_peft_model(deepcopy(model), LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **settings}))


def train_factors(model: nn.Module, seed: int = 0) -> None:
    """Give every trainable factor the values of a training that has happened."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("lora_A" in name or "lora_B" in name):
            parameter.data = torch.randn_like(parameter)


def factors_of(model: PeftModel, adapter: str = "default") -> dict[str, tuple[Tensor, Tensor]]:
    """{plain module name: (A, B)}, as PEFT exports them."""
    state = get_peft_model_state_dict(model, adapter_name=adapter)
    prefix, suffix = "base_model.model.", ".lora_A.weight"
    names = [key.removeprefix(prefix).removesuffix(suffix) for key in state if key.endswith(suffix)]
    return {n: (state[f"{prefix}{n}{suffix}"], state[f"{prefix}{n}.lora_B.weight"]) for n in names}


def reference_penalty(model: PeftModel, pair: Pair, dense_map: Callable[..., Tensor], adapter: str = "default") -> float:
    """Σ_l ‖(I − C_l) B_l A_l‖²_F over one adapter, dense and in float64."""
    factors = factors_of(model, adapter).items()
    return float(sum(dense_penalty(a, b, dense_map(pair.direction(name))) for name, (a, b) in factors))


@dataclass(frozen=True)
class TwoSided(Anchor):
    """Another project's variant: the authors' map on the outputs, a metric on the inputs."""

    needs: ClassVar = Gram.needs

    def build(self, target, weights):
        inp = QuadraticForm(1.0, orthonormal(target.shape[1], 3).float(), torch.tensor([9.0, 4.0, 0.0]))
        return ModuleAnchor(out=EXACT.build(target, weights).out, inp=inp)


def bound(model, pair, anchors, **settings) -> UpdatePenalty:
    """The penalty of a fresh adapter, after which its factors are those of a training."""
    penalty = UpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, anchors, progress=False), **settings)
    train_factors(model)
    return penalty
