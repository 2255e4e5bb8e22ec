"""The factors of a trained adapter, read from its files."""

import math
from pathlib import Path

from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from asft_lightning.errors import AnchorError
from asft_lightning.runtime.reading import is_finite
from asft_lightning.weights.adapter_safety import require_harmless
from asft_lightning.weights.loading import load_pretrained
from asft_lightning.weights.matrices import Weights
from asft_lightning.weights.targets import Target


def read_factors(adapter: Weights, target: Target) -> tuple[Tensor, Tensor]:
    """A (r, d_in) and B (d_out, r) of one layer of an adapter in PEFT's format, finite.

    Raises:
        AnchorError: If the adapter lacks the layer, or its factors do not fit or are not finite.
    """
    factors = []
    for factor in ("lora_A", "lora_B"):
        try:
            tensor = adapter[f"{target.name}.{factor}.weight"]
        except KeyError:
            raise AnchorError(
                f"{target.name}: the adapter {adapter.label} must have every layer of the anchors, and lacks its "
                f"{factor}. Tune it with the same target_modules."
            ) from None
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise AnchorError(
                f"{target.name}: the adapter {adapter.label} must hold floating-point numbers of 16 bits or more, but its "
                f"{factor} is {tensor.dtype}. Give the adapter as it was trained."
            )
        if not is_finite(tensor):
            raise AnchorError(
                f"{target.name}: the adapter {adapter.label} must be finite, but its {factor} holds NaN or Inf. "
                "Tune it again, with a smaller learning rate."
            )
        factors.append(tensor)
    a, b = factors
    if (b.shape[0], a.shape[1]) != target.shape:
        raise AnchorError(
            f"{target.name}: the update of {adapter.label} must have the layer's shape {target.shape}, got "
            f"{(b.shape[0], a.shape[1])}. Tune the adapter on the same model."
        )
    return a, b


def load_config(adapter: str | Path) -> LoraConfig:
    """An adapter's configuration in PEFT's format.

    Raises:
        AnchorError: If it is of no LoRA adapter.
        ConfigurationError: If it cannot be had, or has a pattern that may take for ever.
    """
    config = load_pretrained(PeftConfig.from_pretrained, str(adapter))
    if not isinstance(config, LoraConfig):
        raise AnchorError(
            f"{adapter} must be a LoRA adapter, and its configuration is a {type(config).__name__}: "
            "its update is no B·A. Give one that LoRA trained."
        )
    require_harmless(config, str(adapter))
    return config


def update_scaling(config: LoraConfig, name: str, rank: int) -> float:
    """α/r of one layer (α/√r with rsLoRA), by which PEFT multiplies B·A.

    Args:
        config: The adapter's.
        name: The layer's canonical name.
        rank: r of its factors.
    """
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)
