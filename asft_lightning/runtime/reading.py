"""Files that may be damaged, or of something else: one error for all that libraries say of them."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from asft_lightning.errors import AsFTError, ConfigurationError

T = TypeVar("T")

UNREADABLE = (
    UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    ArithmeticError, ImportError, re.error,
)  # fmt: skip
"""What safetensors, torch, pickle and PEFT raise for a file that is damaged, or of something else."""


def readable(path: Path, read: Callable[[], T], what: str = "weights") -> T:
    """What ``read`` reads of ``path``.

    Raises:
        ConfigurationError: If it cannot.
    """
    try:
        return read()
    except AsFTError:  # one of ours says what is wrong
        raise
    except UNREADABLE as error:
        raise unreadable(path, error, what) from error


def unreadable(path: str | Path, error: Exception, what: str = "weights") -> ConfigurationError:
    """The error for a file that cannot be read as ``what``."""
    if isinstance(error, UnpicklingError):  # torch's own advice, weights_only=False, would execute what the file holds
        return ConfigurationError(
            f"{path} cannot be read as {what}: it is damaged or holds more than tensors, and nothing of it was executed. "
            "Get it again, as safetensors where there is a choice."
        )
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigurationError(f"{path} cannot be read as {what} ({cause}). It is damaged: get it again.")


def require_unpacked(path: str | Path) -> None:
    """Refuse a file that is packed: torch writes plain ones, and would unpack a few kilobytes to gigabytes.

    Args:
        path: What torch is to read; a file of another kind is left to it.

    Raises:
        ConfigurationError: If what is in it comes to more than its size, or cannot be known.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, *UNREADABLE) as error:
        raise unreadable(path, error) from error
    if unpacked > (size := Path(path).stat().st_size):
        raise ConfigurationError(
            f"{path} must be as torch.save writes it, and its {size} bytes would come to {unpacked} unpacked. Do not use "
            "it: get it again, as safetensors where there is a choice."
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no Inf, in one pass and without a copy; True where its kind has neither."""
    if not tensor.numel() or tensor.is_meta or not tensor.is_floating_point() or tensor.element_size() < 2:
        return True
    return all(bool(value.isfinite()) for value in torch.aminmax(tensor.detach()))  # NaN spreads to both
