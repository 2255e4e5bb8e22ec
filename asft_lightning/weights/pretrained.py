"""Which checkpoints a run is about; the one argument every module of ours takes, and the one place that loads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.extras import require_extra
from asft_lightning.weights.loading import load_padding_tokenizer
from asft_lightning.weights.models import load_configuration, load_model, load_on_meta


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
        load_in_4bit: Keep the frozen weights in 4 bits (QLoRA: NF4 with double quantisation, by bitsandbytes), computed in
            ``dtype``, or bfloat16 where that is ``auto``. Anchors are built from the whole weights all the same.
        attn_implementation: As in Transformers; null takes its default.
        start: Which of the two is fine-tuned; ``base`` for baselines that begin unaligned. The tokenizer, and with it the
            chat template, is the aligned model's either way.
        trust_remote_code: Run Python code that comes with the checkpoint. Off, and better left off.
    """

    aligned: str
    base: str | None = None
    revision: str | None = None
    base_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    load_in_4bit: bool = False
    attn_implementation: str | None = None
    start: Literal["aligned", "base"] = "aligned"
    trust_remote_code: bool = False

    @property
    def origin(self) -> tuple[str, str | None]:
        """The checkpoint that fine-tuning starts from, and its revision.

        Raises:
            ConfigurationError: If that is ``base``, and none is given.
        """
        if self.start == "aligned":
            return self.aligned, self.revision
        if self.base is None:
            raise ConfigurationError("start base needs a base checkpoint, and `base` is not given. Name it.")
        return self.base, self.base_revision

    @property
    def loading(self) -> str:
        """How the weights are loaded, in a few words: the same files give other numbers in another way."""
        return f"{self.dtype}, {self.attn_implementation or 'default'} attention" + (", 4 bits" if self.load_in_4bit else "")

    def load_model(self) -> PreTrainedModel:
        """The model to fine-tune, in train mode (Transformers leaves it in eval mode, and Lightning keeps what it finds).

        Raises:
            ConfigurationError: If it cannot be had, is damaged, or is to be loaded in 4 bits without bitsandbytes.
        """
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        location, revision = self.origin
        settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": self.attn_implementation, **self._trust}
        if self.load_in_4bit:
            settings["quantization_config"] = _four_bits(torch.bfloat16 if dtype == "auto" else dtype)
        model = load_model(AutoModelForCausalLM, location, revision, **settings).train()
        if self.load_in_4bit:
            _keep_differentiable(model)
        return model

    def load_classifier(self, labels: Sequence[str]) -> PreTrainedModel:
        """The model to fine-tune with a new head for several labels a text, in train mode; ``auto`` is float32 here.

        Raises:
            ConfigurationError: If it cannot be had or is damaged, or has no such kind, or is to be loaded in 4 bits.
        """
        if self.load_in_4bit:
            raise ConfigurationError("a classifier's head is trained whole, got load_in_4bit true. Set it to false.")
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        settings: dict[str, Any] = {
            "dtype": torch.float32 if self.dtype == "auto" else getattr(torch, self.dtype),
            "attn_implementation": self.attn_implementation,
            "problem_type": "multi_label_classification",
        }
        location, revision = self.origin
        settings |= names | self._trust
        return load_model(AutoModelForSequenceClassification, location, revision, new_head=True, **settings).train()

    def load_model_on_meta(self) -> PreTrainedModel:
        """The aligned model's modules and shapes, without its weights."""
        return load_on_meta(AutoModelForCausalLM, self.aligned, self.revision, **self._trust)

    def vocabulary_size(self) -> int:
        """How many token ids the aligned model has embeddings for, by its configuration."""
        return int(load_configuration(self.aligned, self.revision, **self._trust).get_text_config().vocab_size)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The aligned model's tokenizer, with a pad token.

        Raises:
            ConfigurationError: If it cannot be had, or has no token to pad with.
        """
        return load_padding_tokenizer(self.aligned, self.revision, **self._trust)

    @property
    def _trust(self) -> dict[str, Any]:
        return {"trust_remote_code": self.trust_remote_code}


def _keep_differentiable(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from its inference kernel for CPUs with AVX512-BF16.

    The first forward pass in eval mode would pack the weights anew for it, rounded and for good. It has no gradient: what is
    trained after a scoring would learn nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _four_bits(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    require_extra("bitsandbytes", "pretrained.load_in_4bit")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
