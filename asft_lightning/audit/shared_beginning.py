"""What texts begin with alike, run once: a task's system prompt and instruction may be half of each of its prompts."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from asft_lightning.chat.batching import padded

_WORTHWHILE = 16
"""Tokens from which on it is faster than to run them again."""


class SharedBeginning:
    """Makes the inputs of a model's forward pass over a batch of texts, with the keys and values of what they begin with.

    These stay for the next batch, which may begin likewise. What comes out is the same, up to rounding, as of the whole
    texts; those are given where the model's cache is not one of keys and values alone.

    Args:
        model: A Transformers causal LM, in eval mode and without gradients when it is used.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._ids: list[int] = []
        self._cache: Any = None

    def inputs(self, texts: Sequence[list[int]]) -> tuple[dict[str, Any], Tensor]:
        """The forward pass's arguments, and where the last token of each text is in what comes out (texts,).

        Args:
            texts: Token ids, no text empty.
        """
        device = next(self._model.parameters()).device
        beginning = _common(texts)
        cache = self._cache_of(beginning, device) if len(beginning) >= _WORTHWHILE else None
        batch = padded([text[0 if cache is None else len(beginning) :] for text in texts], 0, device)
        last = batch.attention_mask.sum(1) - 1
        if cache is None:
            return {**batch._asdict(), "use_cache": False}, last
        of_texts = deepcopy(cache)
        of_texts.batch_repeat_interleave(len(texts))
        attended = batch.attention_mask.new_ones(len(texts), len(beginning))
        mask = torch.cat([attended, batch.attention_mask], dim=1)
        return {"input_ids": batch.input_ids, "attention_mask": mask, "past_key_values": of_texts, "use_cache": True}, last

    def _cache_of(self, beginning: list[int], device: torch.device) -> DynamicCache | None:
        """The keys and values of a beginning; None where the model's cache is of another kind."""
        if beginning != self._ids:
            batch = padded([beginning], 0, device)
            found = getattr(self._model.base_model(**batch._asdict(), use_cache=True), "past_key_values", None)
            kinds = {type(layer) for layer in getattr(found, "layers", ())}
            is_known = type(found) is DynamicCache and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
            self._ids, self._cache = beginning, found if is_known else None
        return self._cache


def _common(texts: Sequence[list[int]]) -> list[int]:
    """What all begin with, but the last token of the shortest: each has one to run.

    >>> _common([[1, 2, 3], [1, 2, 4, 5]]), _common([[1, 2], [1, 2, 3]])
    ([1, 2], [1])
    """
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*(text[:-1] for text in texts), strict=False))
    return [column[0] for column in alike]
