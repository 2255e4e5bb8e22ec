"""A judge's model: loaded when it is first asked, dropped when it is released."""

import gc
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.loading import load_tokenizer
from asft_lightning.weights.models import load_model

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

FEW_BATCHES = 3
"""Up to so many are over before a progress bar could be read."""

_DTYPES: dict[str, Any] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class LazyModel:
    """A checkpoint and its tokenizer, on a device from the first use until :meth:`release`.

    Code that comes with a checkpoint is never run.

    Args:
        kind: Transformers' auto class for it.
        location: Hub id, directory, or ``sandbox:`` part.
        revision: Its hub revision.
        dtype: Of its weights; ``auto`` takes the checkpoint's.
        device: E.g. ``cuda:1`` or ``cpu``; None for the accelerator if there is one, or else the CPU.
    """

    def __init__(self, kind: Any, location: str, *, revision: str | None, dtype: Dtype, device: str | None) -> None:
        if dtype not in _DTYPES:
            raise ConfigurationError(f"a judge's dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}. Use auto.")
        self.kind = kind
        self.location = location
        self.revision = revision
        self.dtype = dtype
        self.device = None if device is None else _device(device)
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, and its tokenizer with a pad token; every global RNG is left as it was.

        Raises:
            ConfigurationError: If the checkpoint cannot be had, lacks weights, or the device cannot take it.
        """
        if self._loaded is None:
            with undisturbed(nn.Identity()):  # weights that a checkpoint lacks are drawn before that is noticed
                self._loaded = self._load()
        return self._loaded

    def release(self) -> None:
        """Drop the model and give its memory back; the next use loads it again."""
        self._loaded = None
        gc.collect()
        torch.cuda.empty_cache()

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        source: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        tokenizer = load_tokenizer(self.location, **source)
        model = load_model(self.kind, self.location, dtype=_DTYPES[self.dtype], **source)
        self._pad(model, tokenizer)
        return self._placed(model), tokenizer

    def _pad(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """One pad token for both: a causal classifier reads its labels at the last token that is none."""
        if tokenizer.pad_token is None:
            # The start token first: padding with the end token would hide the end token of a text.
            tokenizer.pad_token = tokenizer.bos_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ConfigurationError(
                f"a judge's tokenizer must have a pad, start or end token, and that of {self.location!r} has none. "
                "Set pad_token in its tokenizer_config.json."
            )
        model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id

    def _placed(self, model: PreTrainedModel) -> PreTrainedModel:
        try:
            return model.to(self.device or _accelerator())
        except (RuntimeError, AssertionError) as error:
            raise ConfigurationError(
                f"a judge's device must exist and have room for the model, and {str(self.device)!r} could not take "
                f"{self.location!r} ({error}). Set device to cpu, or to a free accelerator."
            ) from error


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"a judge's device must be null, cpu, cuda, cuda:1 or the like, got {name!r}. Use null for the accelerator."
        ) from error


def _accelerator() -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")
