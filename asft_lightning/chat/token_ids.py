"""Token ids of texts, asked of a tokenizer's backend in as few and as short texts as give the same."""

import re
from collections.abc import Sequence
from itertools import chain
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_BORDERS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, re.Pattern[str]]] = WeakKeyDictionary()


def token_ids(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    add_special_tokens: bool = False,
    split_special_tokens: bool = False,
) -> list[list[int]]:
    """What the tokenizer gives when it is called; asked of its backend where that is the same, for it is much faster.

    Args:
        tokenizer: The model's.
        texts: What to encode.
        add_special_tokens: Whether to add those that the tokenizer begins and ends a text with.
        split_special_tokens: Whether special tokens that stand in a text are text.
    """
    if getattr(type(tokenizer), "_encode_plus", None) is not PreTrainedTokenizerFast._encode_plus:
        ids: list[list[int]] = tokenizer(
            list(texts),
            add_special_tokens=add_special_tokens,
            split_special_tokens=split_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if backend.encode_special_tokens != split_special_tokens:
        backend.encode_special_tokens = split_special_tokens
    is_whole = add_special_tokens or split_special_tokens
    segments = [[text] for text in texts] if is_whole else _segments(texts, _borders(tokenizer))
    # A prompt stands in what is asked and in the whole conversation, and what a template writes in every one of them.
    different = list(dict.fromkeys(chain.from_iterable(segments)))
    encodings = backend.encode_batch_fast(different, add_special_tokens=add_special_tokens)
    ids_of = dict(zip(different, (encoding.ids for encoding in encodings), strict=True))
    return [list(chain.from_iterable(map(ids_of.__getitem__, parts))) for parts in segments]


def _segments(texts: Sequence[str], borders: re.Pattern[str]) -> list[list[str]]:
    """The texts cut before each border; one that begins with the text before it is looked through from there."""
    segments_of_all: list[list[str]] = []
    before, segments = "", [""]
    for text in texts:
        if text.startswith(before):
            start, segments = len(before) - len(segments[-1]), segments[:-1]
        else:
            start, segments = 0, []
        for border in borders.finditer(text, start + 1):
            end = border.start()
            segments.append(text[start:end])
            start = end
        segments.append(text[start:])
        segments_of_all.append(segments)
        before = text
    return segments_of_all


def _borders(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Special tokens that a text may be cut before, for a tokenizer does nothing across them.

    It looks for special tokens before all else, from the left, and for the longest. So one is a border if it is found
    whatever stands around it, which is when no other token overlaps it, and if it takes no blank before it.
    """
    now = len(tokenizer), tuple(tokenizer.all_special_tokens)
    if _BORDERS.get(tokenizer, (None,))[0] != now:
        added = list(tokenizer.added_tokens_decoder.values())
        borders = [
            token.content
            for token in added
            if token.special and not (token.normalized or token.lstrip or token.single_word)
            if not any(_overlaps(other.content, token.content) for other in added)
        ]
        _BORDERS[tokenizer] = now, re.compile("|".join(map(re.escape, borders)) or r"(?!)")
    return _BORDERS[tokenizer][1]


def _overlaps(other: str, token: str) -> bool:
    """Whether a token may be found where this one stands, which it is not: it goes on beyond it, or begins before it."""
    return token[:1] in other[1:] or (other.startswith(token) and other != token)
