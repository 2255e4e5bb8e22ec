"""Which checkpoints a run is about; the one argument every module of ours takes, and the one place that loads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.errors import ConfigurationError
from asft_lightning.locations import resolve, unreachable

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
        start: Which of the two is fine-tuned; ``base`` for baselines that begin unaligned. The tokenizer, and with it the
            chat template, is the aligned model's either way.
        trust_remote_code: Run Python code that comes with the checkpoint. Off, and better left off.
    """

    aligned: str
    base: str | None = None
    revision: str | None = None
    base_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
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

    def load_model(self) -> PreTrainedModel:
        """The model to fine-tune, in train mode (Transformers leaves it in eval mode, and Lightning keeps what it finds)."""
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        model = self._load(
            AutoModelForCausalLM.from_pretrained,
            *self.origin,
            dtype=dtype,
            attn_implementation=self.attn_implementation,
        )
        return model.train()

    def load_model_on_meta(self) -> PreTrainedModel:
        """The aligned model's modules and shapes, without its weights."""
        config = self._load(AutoConfig.from_pretrained, self.aligned, self.revision)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=self.trust_remote_code)
        return model

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The aligned model's tokenizer, with a pad token."""
        tokenizer = self._load(AutoTokenizer.from_pretrained, self.aligned, self.revision)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _load(self, from_pretrained: Callable[..., T], location: str, revision: str | None, **kwargs: object) -> T:
        try:
            return from_pretrained(resolve(location), revision=revision, trust_remote_code=self.trust_remote_code, **kwargs)
        except ConfigurationError:
            raise
        except (OSError, ValueError) as error:
            raise unreachable(location, error) from error
