"""A model's config.json that comes from elsewhere: it may name code to fetch and run, or tell of far more than there is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from asft_lightning.errors import ConfigurationError
from asft_lightning.weights.files import checkpoint_files, open_safetensors

_IMPLEMENTATIONS = {"attn_implementation", "experts_implementation"}
"""Settings that may be a kernel's repository: Transformers 5.0 runs any that a config.json names."""
_LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers"}
_WEIGHTS_A_BYTE = 8
"""No format packs more."""


def require_no_kernel(config: Mapping[str, Any], location: str) -> None:
    """Refuse a kernel of the hub: it is Python, and what a checkpoint names is no consent to run it.

    Args:
        config: What stands in config.json.
        location: Where it comes from.

    Raises:
        ConfigurationError: If it names one.
    """
    for name, value in _settings(config):
        if name.strip("_").removesuffix("_internal") in _IMPLEMENTATIONS and any("/" in text for text in _texts(value)):
            raise ConfigurationError(
                f"{location} names a kernel to fetch and run, which is not done: {name} of its config.json is "
                f"{value!s:.100}. Remove that line; a kernel that you trust is named by pretrained.attn_implementation."
            )


def require_layers(config: Mapping[str, Any], folder: Path, location: str) -> None:
    """Refuse more layers than there are weights: to make them would take for ever.

    Args:
        config: What stands in config.json.
        folder: Of the checkpoint.
        location: Where it comes from.

    Raises:
        ConfigurationError: If so.
    """
    files = [path for path in checkpoint_files(folder) if path.suffix == ".safetensors"]
    most = 0
    for path in files:
        with open_safetensors(path) as handle:
            most += len(handle.keys())
    for name, value in _settings(config):
        if files and name in _LAYERS and isinstance(value, int) and value > most:
            raise ConfigurationError(
                f"a checkpoint must hold all of its weights, and {location} holds {most} while {name} of its config.json is "
                f"{value}. Get both files of one version."
            )


def require_size(model: nn.Module, folder: Path, location: str) -> None:
    """Refuse a model that is larger than its files can hold, before memory is asked for it.

    Args:
        model: The model on the meta device.
        folder: Of the checkpoint.
        location: Where it comes from.

    Raises:
        ConfigurationError: If it is.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    size = sum(path.stat().st_size for path in checkpoint_files(folder))
    if weights > _WEIGHTS_A_BYTE * size:
        raise ConfigurationError(
            f"a checkpoint must hold all of its weights, and the files of {location} have {size} bytes for the {weights} "
            "that its config.json tells of. Get both files of one version."
        )


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Every setting, those of parts of a model too."""
    for name, value in config.items() if isinstance(config, Mapping) else ():
        yield str(name), value
        yield from _settings(value)


def _texts(value: Any) -> list[str]:
    """Of one implementation, or of each of a model's parts."""
    return [str(part) for part in (value.values() if isinstance(value, Mapping) else [value])]
