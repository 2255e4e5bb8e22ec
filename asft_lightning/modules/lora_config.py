"""LoRA's settings: the paper's, and a ``peft.LoraConfig`` from what a config file says."""

from dataclasses import fields
from typing import Any

from peft import LoraConfig

from asft_lightning.errors import ConfigurationError

PAPER_LORA: dict[str, Any] = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
"""The paper's LoRA settings, as arguments of ``peft.LoraConfig``."""


def lora_config(lora: dict[str, Any] | LoraConfig) -> LoraConfig:
    """A ``peft.LoraConfig`` for a causal LM from one, or from its arguments.

    Raises:
        ConfigurationError: If an argument is unknown to PEFT, or not to its liking.
    """
    if isinstance(lora, LoraConfig):
        return lora
    known = {field.name for field in fields(LoraConfig)}
    if unknown := sorted(set(lora) - known):
        raise ConfigurationError(f"lora takes the arguments of peft.LoraConfig, got {unknown[0]!r}. Is it misspelt?")
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", **lora})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"lora is no peft.LoraConfig: {error}") from error
