"""Families of models of Transformers, each small and with random weights, and what protects each."""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from asft_lightning import Activation, AnswerPenalty, Gram, Source, UpdatePenalty, build_anchors
from kit.activations import probe
from kit.models import train_factors, with_lora

_SIZES: dict[str, Any] = {
    "vocab_size": 262, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4}
_LATENT = {
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 8,
    "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
_SHORT_OF_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama 2 and 3, SmolLM2, Vicuna", _GROUPED),
    "mistral": ("Mistral", _GROUPED),
    "qwen2": ("Qwen 2 and 2.5", _GROUPED),
    "qwen3": ("Qwen 3", _GROUPED),
    "gemma": ("Gemma", _GROUPED),
    "gemma2": ("Gemma 2", _GROUPED),
    "gemma3_text": ("Gemma 3", _GROUPED),
    "smollm3": ("SmolLM3", _GROUPED),
    "olmo2": ("OLMo 2", _GROUPED),
    "granite": ("Granite 3", _GROUPED),
    "cohere": ("Command R", _GROUPED),
    "cohere2": ("Command A", _GROUPED),
    "stablelm": ("StableLM 2", _GROUPED),
    "nemotron": ("Nemotron", _GROUPED),
    "exaone4": ("EXAONE 4", _GROUPED),
    "glm4": ("GLM 4", _GROUPED),
    "starcoder2": ("StarCoder 2", _GROUPED),
    "phi": ("Phi-2", {}),
    "phi3": ("Phi-3, Phi-4", _GROUPED),
    "falcon": ("Falcon", {}),
    "gpt_neox": ("Pythia, GPT-NeoX", {}),
    "gpt2": ("GPT-2", {}),
    "gpt_bigcode": ("StarCoder", {}),
    "gptj": ("GPT-J", {"rotary_dim": 4}),
    "bloom": ("BLOOM", {}),
    "mpt": ("MPT", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_oss": ("gpt-oss", _GROUPED | _EXPERTS),
    "mixtral": ("Mixtral", _GROUPED | _EXPERTS),
    "olmoe": ("OLMoE", _GROUPED | _EXPERTS),
    "qwen3_moe": ("Qwen 3 MoE", _GROUPED | _EXPERTS),
    "qwen3_next": ("Qwen3-Next", _GROUPED | _EXPERTS | _SHORT_OF_ATTENTION),
    "falcon_h1": ("Falcon-H1", _GROUPED | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}),
    "mamba": ("Mamba", {"state_size": 4}),
    "deepseek_v3": ("DeepSeek-V3, R1", _EXPERTS | _LATENT),
}
"""{model_type: (models of that kind, its settings beside the sizes)}."""


def family_model(family: str) -> PreTrainedModel:
    """A plain model of a family, with weights large enough that its answers depend on what it reads."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **_SIZES | FAMILIES[family][1])).float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


class Protections:
    """What protects a family's model with LoRA on some layers; each refuses, or is 0 at the start and then above it."""

    def __init__(self, family: str, folder, prompts: Source) -> None:
        self.model, self.prompts = family_model(family), prompts
        base = deepcopy(self.model)
        for parameter in base.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        self.aligned, self.base = str(folder / "aligned"), str(folder / "base")
        self.model.save_pretrained(self.aligned)
        base.save_pretrained(self.base)

    def gram(self, model: PeftModel):
        return UpdatePenalty(model, build_anchors(model, self.aligned, self.base, [Gram()], progress=False))

    def activation(self, model: PeftModel):
        anchors = [Activation(prompts=self.prompts)]
        return UpdatePenalty(model, build_anchors(model, self.aligned, None, anchors, probe=probe(model), progress=False))

    def answers(self, model: PeftModel):
        kept = probe(self.model).answers(list(self.prompts.iterate()), 4, batch_size=2)
        return partial(AnswerPenalty(model, kept), model, 0)

    def holds(self, name: str, targets: list[str] | str) -> bool:
        model = with_lora(self.model, target_modules=targets)
        penalty = getattr(self, name)(model)
        start = float(penalty())
        train_factors(model)
        return abs(start) < 1e-5 and float(penalty()) > 1e-3
