"""What the callbacks of this package need of a LightningModule; any module with these attributes will do."""

from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from asft_lightning.templates import Template


class ChatModule(Protocol):
    """A LightningModule around a chat model."""

    model: Any
    """A Transformers causal LM or a PEFT model of one: ``generate``, ``save_pretrained``."""
    tokenizer: PreTrainedTokenizerBase
    template: Template
