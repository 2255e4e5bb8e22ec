"""LoRA's settings: the paper's, and a ``peft.LoraConfig`` from what a config file says."""

import json
import math
from dataclasses import fields
from typing import Any

from peft import LoraConfig

from asft_lightning.errors import ConfigurationError

PAPER_LORA: dict[str, Any] = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
"""The paper's LoRA settings, as arguments of ``peft.LoraConfig``."""


def lora_config(lora: dict[str, Any] | LoraConfig) -> LoraConfig:
    """A ``peft.LoraConfig`` for a causal LM from one, or from its arguments.

    Raises:
        ConfigurationError: If an argument is unknown to PEFT, or not to its liking, or nothing would be trained.
    """
    config = lora if isinstance(lora, LoraConfig) else _from_arguments(lora)
    alphas = (config.lora_alpha, *(config.alpha_pattern or {}).values())
    if wrong := [alpha for alpha in alphas if not (isinstance(alpha, int | float) and 0 < alpha < math.inf)]:
        raise ConfigurationError(
            f"lora_alpha must be a positive number, or the update would not count, got {wrong[0]!r}. The paper's is 32."
        )
    if not 0 <= config.lora_dropout < 1:
        raise ConfigurationError(
            f"lora_dropout must be 0 or more and below 1, or nothing would be trained, got {config.lora_dropout}. The "
            "paper's is 0.05."
        )
    return config


def _from_arguments(lora: dict[str, Any]) -> LoraConfig:
    known = {field.name: field.type for field in fields(LoraConfig)}
    if unknown := sorted(set(lora) - known.keys()):
        raise ConfigurationError(f"lora takes the arguments of peft.LoraConfig, got {unknown[0]!r}. Is it misspelt?")
    settings = {name: _meant(value) for name, value in lora.items()}
    for name, value in settings.items():
        if known[name] in ("int", "float") and not isinstance(value, int | float):
            raise ConfigurationError(f"lora.{name} must be a number, got {value!r}. The paper's is {PAPER_LORA.get(name)}.")
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", **settings})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"lora is no peft.LoraConfig: {error}") from error


def _meant(value: Any) -> Any:
    """What a text from the command line stands for: ``--model.lora.r 16`` gives ``"16"``.

    >>> [_meant(text) for text in ("16", "1e-1", "true", "[q_proj, v_proj]", "all-linear", ".*[qv]_proj")]
    [16, 0.1, True, ['q_proj', 'v_proj'], 'all-linear', '.*[qv]_proj']
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        is_list = value.startswith("[") and value.endswith("]")
        return [part.strip() for part in value[1:-1].split(",")] if is_list else value
