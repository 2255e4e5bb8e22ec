"""The files of a checkpoint: all there, its own, whole, and of numbers. Nothing from a file is executed."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.reading import readable, require_unpacked

_WEIGHT_FILES = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def find_index(folder: Path) -> dict[str, str] | None:
    """{tensor: file} of a checkpoint in shards, safetensors first; None where it has no index.

    Raises:
        ConfigurationError: If the index is none, names a file of another folder, or one that is absent.
    """
    path = next((folder / name for name in _INDEX_FILES if (folder / name).is_file()), None)
    return None if path is None else _read_index(path)


def find_file(folder: Path) -> str:
    """The name of a checkpoint's only file of weights, safetensors first.

    Raises:
        ConfigurationError: If there is none.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return name
    raise ConfigurationError(
        f"a checkpoint directory needs one of {', '.join((*_INDEX_FILES, *_WEIGHT_FILES))}, and {folder} has none. "
        "Write it with save_pretrained."
    )


def has_weights(folder: Path) -> bool:
    """Whether a checkpoint has more than its configuration."""
    return any((folder / name).is_file() for name in (*_INDEX_FILES, *_WEIGHT_FILES))


def checkpoint_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights.

    Raises:
        ConfigurationError: If there is none, or its index is not to be trusted.
    """
    index = find_index(folder)
    return [folder / name for name in sorted({find_file(folder)} if index is None else set(index.values()))]


def require_sound(folder: Path) -> None:
    """Refuse a checkpoint before another library opens it; only the heads of its files are read.

    Raises:
        ConfigurationError: If its index is not to be trusted, a file is absent or cut short, or it holds integers where
            weights should be and does not say that it is quantised.
    """
    quantised = _is_quantised(folder / "config.json")
    for file in checkpoint_files(folder):
        if file.suffix != ".safetensors":
            require_unpacked(file)
            continue  # a pickle is read when it is loaded, and then as weights only
        with open_safetensors(file) as handle:
            for name in () if quantised else handle.keys():
                dtype = handle.get_slice(name).get_dtype()
                if name.endswith(".weight") and not dtype.startswith(("F", "BF")):
                    raise ConfigurationError(
                        f"{name}: weights must be floating-point numbers, and {file} holds {dtype}. Give the "
                        "checkpoint as it was before it was quantised, or one whose config.json has a quantization_config."
                    )


def open_safetensors(path: Path) -> safe_open:
    """A safetensors file, memory-mapped.

    Raises:
        ConfigurationError: If it is damaged.
    """
    return readable(path, lambda: safe_open(path, framework="pt"))


def unpickle(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a pickled file.

    Raises:
        ConfigurationError: If it is damaged or packed, or holds anything else, which is not executed.
    """
    require_unpacked(path)
    return readable(path, lambda: dict(torch.load(path, map_location="cpu", weights_only=True)))


def _read_index(path: Path) -> dict[str, str]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"{path} must be a JSON index with a weight_map, got {error!r}. Get it again.") from error
    files = {str(name): str(file) for name, file in entries}
    for file in set(files.values()):
        if Path(file).name != file:
            raise ConfigurationError(
                f"{path} must name files of its own folder, got {file!r}. Do not use this checkpoint: it points elsewhere."
            )
        if not (path.parent / file).is_file():
            raise ConfigurationError(f"{path} names {file}, which is not there. Get the missing shard again.")
    return files


def _is_quantised(config: Path) -> bool:
    """Whether a checkpoint says that its weights are packed."""
    try:
        return "quantization_config" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
