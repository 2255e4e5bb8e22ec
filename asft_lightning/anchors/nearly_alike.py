"""Prompts that are nearly others, told by their words."""

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")


def nearly_among(prompts: Sequence[str], others: Iterable[str]) -> list[bool]:
    """Whether each prompt is nearly one of the others: of the words that are in either, half are in both.

    Where words are not set apart, as in Chinese, a prompt is nearly itself alone.

    >>> nearly_among(["How can I mend socks?", "Name a river."], ["how can I mend a hat"])
    [True, False]
    """
    asked = [_words(prompt) for prompt in prompts]
    known = frozenset().union(*asked)
    is_nearly = [False] * len(asked)
    for other in others:
        words = _words(other)
        if len(words & known) * 2 < len(words):  # nearly none of them
            continue
        for i, own in enumerate(asked):
            is_nearly[i] = is_nearly[i] or (bool(own) and len(own & words) * 2 >= len(own | words))
    return is_nearly


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))
