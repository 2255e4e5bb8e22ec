"""What texts begin with alike, run once: a task's system prompt and instruction may be half of each of its prompts."""

import inspect
from collections.abc import Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any
from weakref import WeakSet

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from asft_lightning.chat.batching import padded

_WORTHWHILE = 16
"""Tokens from which on it is faster than to run them again, where what they leave is kept for many batches."""
_WORTHWHILE_ONCE = 200
"""Tokens that need not be run again, from which on a pass of their own for a single batch pays, back through it too: 371 of
an AG News batch take a third off a step of SmolLM2-135M, 31 nothing."""


_RUN_WHOLE = WeakSet[nn.Module]()
"""Models that were found unable to go on from a beginning."""


def tokens_alike(input_ids: Tensor, before: int) -> int:
    """How many tokens all rows (rows, tokens) begin with, up to a column; 0 of a single row."""
    if len(input_ids) == 1:
        return 0
    are_alike = (input_ids == input_ids[:1]).all(dim=0)[:before]
    return int(are_alike.long().cumprod(0).sum())


def after_beginning(model: nn.Module, input_ids: Tensor, beginning: int) -> dict[str, Any] | None:
    """The arguments of a forward pass over the rest of rows that begin alike, which is run here, once for all of them.

    What comes of it, and the gradient, are those of whole rows, up to rounding; dropout in the beginning is drawn once for
    all rows.

    Args:
        model: A Transformers causal LM, or a PEFT model of one.
        input_ids: (rows, tokens), padded on the right.
        beginning: How many tokens all rows begin with alike.

    Returns:
        None where it would not pay, or the model cannot go on from a beginning.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    spared = beginning * (len(input_ids) - 1)
    if spared < _WORTHWHILE_ONCE or plain in _RUN_WHOLE or not _pays(model):
        return None
    cache = keys_and_values(plain, input_ids[:1, :beginning])
    if cache is None:
        _RUN_WHOLE.add(plain)
        return None
    cache.batch_repeat_interleave(len(input_ids))
    return {"input_ids": input_ids[:, beginning:], "past_key_values": cache, "use_cache": True}


def keys_and_values(model: PreTrainedModel, beginning: Tensor) -> DynamicCache | None:
    """What attention keeps of a beginning, with its gradients; None where the model keeps other things.

    Args:
        model: A Transformers causal LM.
        beginning: Token ids (1, tokens).
    """
    found: Any = getattr(model.base_model(input_ids=beginning, use_cache=True), "past_key_values", None)
    layers = found.layers if type(found) is DynamicCache else []
    is_known = {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}
    is_kept = bool(layers) and all(layer.get_seq_length() == beginning.shape[1] for layer in layers)
    return found if is_known and is_kept else None


def _pays(model: nn.Module) -> bool:
    """Whether another, shorter forward pass is known to: a GPU may wait longer for its kernels' starts than it saves.

    What is sharded or compiled is called as a whole; a layer that is run twice to save memory keeps nothing.
    """
    is_whole = isinstance(model, FSDPModule) or model._compiled_call_impl is not None
    is_run_twice = any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    return not is_whole and not is_run_twice and next(model.parameters()).device.type == "cpu"


class SharedBeginning:
    """Makes the inputs of a model's forward pass over a batch of texts, with the keys and values of what they begin with.

    These stay for the next batch, which may begin likewise. What comes out is the same, up to rounding, as of the whole
    texts; those are given where the model's cache is not one of keys and values alone.

    Args:
        model: A Transformers causal LM, in eval mode and without gradients when it is used, and always in one precision.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._ids: list[int] = []
        self._cache: DynamicCache | None = None

    def inputs(self, texts: Sequence[list[int]], before: int | None = None) -> tuple[dict[str, Any], Tensor]:
        """The forward pass's arguments, and where the last token of each text is in what comes out (texts,).

        Args:
            texts: Token ids, no text empty.
            before: Of which place on what comes out is wanted; None for the last token's alone.
        """
        beginning, cache = self._begun(texts, before)
        rest = padded([text[len(beginning) :] for text in texts], 0, self._device)
        last = rest.attention_mask.sum(1) - 1
        if cache is None:
            return {**rest._asdict(), "use_cache": False}, last
        mask = torch.cat([rest.attention_mask.new_ones(len(texts), len(beginning)), rest.attention_mask], dim=1)
        return {"input_ids": rest.input_ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}, last

    def prompts(self, texts: Sequence[list[int]], pad_token_id: int) -> dict[str, Any]:
        """The arguments of ``generate``, which goes on at the last column; padding stands behind the beginning.

        Args:
            texts: Token ids, no text empty.
            pad_token_id: What to fill with.
        """
        beginning, cache = self._begun(texts) if self._bears_gaps else ([], None)
        rest = padded([text[len(beginning) :] for text in texts], pad_token_id, self._device, side="left")
        ids = torch.tensor([beginning] * len(texts), dtype=torch.int64, device=self._device)
        whole = {
            "input_ids": torch.cat([ids, rest.input_ids], dim=1),
            "attention_mask": torch.cat([torch.ones_like(ids), rest.attention_mask], dim=1),
        }
        return whole if cache is None else whole | {"past_key_values": cache}

    @property
    def _bears_gaps(self) -> bool:
        """Whether padding within a row changes nothing: it would where places are counted by columns."""
        config = self._model.config.get_text_config()
        has_window = getattr(config, "sliding_window", None) is not None
        return not has_window and "position_ids" in inspect.signature(self._model.forward).parameters

    def _begun(self, texts: Sequence[list[int]], before: int | None = None) -> tuple[list[int], DynamicCache | None]:
        """What texts begin with, and the keys and values of that for each; nothing where it does not pay or cannot be."""
        beginning = _common(texts)[:before]
        if len(beginning) < _WORTHWHILE:
            return [], None
        if beginning != self._ids:
            ids = torch.tensor([beginning], device=self._device)
            self._ids, self._cache = beginning, keys_and_values(self._model, ids)
        if self._cache is None:
            return [], None
        of_texts = deepcopy(self._cache)
        of_texts.batch_repeat_interleave(len(texts))
        return beginning, of_texts


def _common(texts: Sequence[list[int]]) -> list[int]:
    """What all begin with, but the last token of the shortest: each has one to run.

    >>> _common([[1, 2, 3], [1, 2, 4, 5]]), _common([[1, 2], [1, 2, 3]])
    ([1, 2], [1])
    """
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*(text[:-1] for text in texts), strict=False))
    return [column[0] for column in alike]
