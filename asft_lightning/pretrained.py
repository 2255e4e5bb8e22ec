"""Which checkpoints a run is about; the one argument every module of ours takes, and the one place that loads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.loading import load, load_model

T = TypeVar("T")


@dataclass(frozen=True)
class Pretrained:
    """The aligned model to fine-tune and its unaligned counterpart.

    Args:
        aligned: Hub id, directory, or ``sandbox:aligned``: the model that is fine-tuned.
        base: Hub id, directory, or ``sandbox:base``: the same architecture before alignment; anchors on
            V = W_aligned − W_base need it.
        revision: Hub revision of ``aligned``.
        base_revision: Hub revision of ``base``.
        dtype: Of the frozen weights; ``auto`` takes the checkpoint's. LoRA factors are always float32 or wider.
        attn_implementation: As in Transformers; null takes its default.
        trust_remote_code: Run Python code that comes with the checkpoint. Off, and better left off.
    """

    aligned: str
    base: str | None = None
    revision: str | None = None
    base_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def load_model(self) -> PreTrainedModel:
        """The aligned model, in train mode (Transformers leaves it in eval mode, and Lightning keeps what it finds)."""
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        model = self._load(load_model, AutoModelForCausalLM, dtype=dtype, attn_implementation=self.attn_implementation)
        return model.train()

    def load_model_on_meta(self) -> PreTrainedModel:
        """The aligned model's modules and shapes, without its weights."""
        config = self._load(load, AutoConfig.from_pretrained)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=self.trust_remote_code)
        return model

    def vocabulary_size(self) -> int:
        """How many token ids the aligned model has embeddings for, by its configuration."""
        return int(self._load(load, AutoConfig.from_pretrained).get_text_config().vocab_size)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The aligned model's tokenizer, with a pad token."""
        tokenizer = self._load(load, AutoTokenizer.from_pretrained)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _load(self, load: Callable[..., T], kind: Any, **settings: object) -> T:
        return load(kind, self.aligned, revision=self.revision, trust_remote_code=self.trust_remote_code, **settings)
