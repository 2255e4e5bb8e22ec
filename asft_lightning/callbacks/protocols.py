"""What the callbacks of this package need of a LightningModule; any module with these attributes will do."""

from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule
from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.weights.pretrained import Pretrained


class ChatModule(Protocol):
    """A LightningModule around a chat model."""

    model: Any
    """A Transformers causal LM or a PEFT model of one: ``generate``, ``save_pretrained``."""
    tokenizer: PreTrainedTokenizerBase
    template: Template


def pretrained_of(callback: Callback, module: LightningModule) -> Pretrained:
    """The checkpoints that a module was made from, for callbacks that look at them.

    Raises:
        ConfigurationError: If it does not tell.
    """
    pretrained = getattr(module, "pretrained", None)
    if not isinstance(pretrained, Pretrained):
        raise ConfigurationError(
            f"{type(callback).__name__} needs a module with `pretrained`, which names the checkpoints, and "
            f"{type(module).__name__} has {pretrained!r}. Set it to asft_lightning.Pretrained(aligned, base)."
        )
    return pretrained
