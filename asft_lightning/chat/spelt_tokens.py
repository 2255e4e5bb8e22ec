"""Special tokens that are spelt out in a text stay text: nobody who writes a row, a prompt or an answer can forge a turn.

A template's own special tokens are told apart by marks around those of the text, which are taken off before anything is
encoded. Texts without a special token in them are encoded exactly as if nothing of this were there.
"""

import re
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.token_ids import token_ids

_START, _END = "\ufdd0", "\ufdd1"  # Unicode keeps these two from ever being characters
_MARKED = re.compile(f"{_START}([^{_START}{_END}]*){_END}")
_SPECIAL: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, re.Pattern[str]]] = WeakKeyDictionary()


def mark(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Texts with marks around each special token that is spelt out in them, for :func:`encode`."""
    pattern, texts = _special(tokenizer), list(texts)
    if not _hold_marks(texts) and pattern.search("\n".join(texts)) is None:  # as nearly always
        return texts
    return [pattern.sub(f"{_START}\\g<0>{_END}", bare(text)) for text in texts]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = False) -> list[int]:
    """Token ids of a text in which some special tokens are marked, each as the text that it is.

    Args:
        tokenizer: The model's.
        text: With marks of :func:`mark`, or without.
        add_special_tokens: Whether to add those that the tokenizer begins and ends a text with.
    """
    return encode_all(tokenizer, [text], add_special_tokens)[0]


def encode_all(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], add_special_tokens: bool = False
) -> list[list[int]]:
    """:func:`encode` of each text. Those without marks, nearly all, are one batch, in one call.

    Args:
        tokenizer: The model's.
        texts: As of :func:`encode`.
        add_special_tokens: As of :func:`encode`.
    """
    if not _hold_marks(texts):  # as nearly always
        return token_ids(tokenizer, texts, add_special_tokens) if texts else []
    is_marked = [_MARKED.search(text) is not None for text in texts]
    plain = [bare(text) for text, marked in zip(texts, is_marked, strict=True) if not marked]
    plain_ids = iter(token_ids(tokenizer, plain, add_special_tokens) if plain else [])
    return [
        _encode_marked(tokenizer, text, add_special_tokens) if marked else next(plain_ids)
        for text, marked in zip(texts, is_marked, strict=True)
    ]


def _encode_marked(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool) -> list[int]:
    beginning, *pieces = _MARKED.split(text)  # text, marked token, text, marked token, …, text
    before, after = _around(tokenizer) if add_special_tokens else ([], [])
    ids = before + token_ids(tokenizer, [bare(beginning)])[0]
    for i, piece in enumerate(pieces):
        ids += _within(tokenizer, bare(piece)) if i % 2 else _spelt(tokenizer, piece)
    return ids + after


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer begins and ends every text with."""
    text = "a"  # an empty one would not tell the two apart
    (plain,), (whole,) = token_ids(tokenizer, [text]), token_ids(tokenizer, [text], add_special_tokens=True)
    begin = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return whole[:begin], whole[begin + len(plain) :]


def _spelt(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    """A special token as text; letter by letter where the vocabulary has no other way to write it."""
    ids = _within(tokenizer, token, split_special_tokens=True)
    if tokenizer.convert_tokens_to_ids(token) not in ids:
        return ids
    return [i for letter in token for i in _within(tokenizer, letter, split_special_tokens=True)]


def _within(tokenizer: PreTrainedTokenizerBase, text: str, split_special_tokens: bool = False) -> list[int]:
    """Ids of what does not begin a text: some tokenizers put a blank before a beginning."""
    (line,) = token_ids(tokenizer, ["\n"])
    ids, alone = token_ids(tokenizer, [f"\n{text}", text], split_special_tokens=split_special_tokens)
    is_line_break_apart = ids[: len(line)] == line
    return ids[len(line) :] if is_line_break_apart else alone


def _special(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Any special token, the longest first; nothing where there are none.

    Read again where there are more tokens or other special ones, and not for each text: Llama 3 has 256 of them.
    """
    now = len(tokenizer), tuple(tokenizer.all_special_tokens)
    if _SPECIAL.get(tokenizer, (None,))[0] != now:
        tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        any_of_them = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        _SPECIAL[tokenizer] = now, re.compile(any_of_them or r"(?!)")
    return _SPECIAL[tokenizer][1]


def _hold_marks(texts: Iterable[str]) -> bool:
    """Whether one of the texts may hold a mark; one look at all of them is much faster than one at each."""
    all_of_them = "".join(texts)
    return _START in all_of_them or _END in all_of_them


def bare(text: str) -> str:
    """Without marks: those that stand in a text anyway, and those that a chat template has parted."""
    return text.replace(_START, "").replace(_END, "")
