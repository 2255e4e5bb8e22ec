"""Thoughts: what a model writes for itself before its answer, between ``<think>`` and ``</think>``."""

import re
from typing import NamedTuple

_OPENED = re.compile(r"<(think|thinking|thought|reasoning)>", re.IGNORECASE)
_CLOSED = re.compile(r"</(think|thinking|thought|reasoning)>", re.IGNORECASE)
_LEFT_EMPTY = re.compile(rf"{_OPENED.pattern}\s*({_CLOSED.pattern}\s*)?$", re.IGNORECASE)


class Said(NamedTuple):
    """What a model wrote, in its two parts.

    Attributes:
        thought: Up to the end of the last thought, marks included; blank where there is none.
        answer: What follows it, without the blanks that part the two.
    """

    thought: str
    answer: str


def split_thought(text: str) -> Said:
    """The thought and the answer of what a model wrote.

    A thought may have been opened by the prompt already, so that the text only closes it. One that is never closed, for the
    model ran out of tokens, leaves no answer.

    Args:
        text: All that the model wrote.
    """
    ends = [match.end() for match in _CLOSED.finditer(text)]
    end = ends[-1] if ends else 0
    if _OPENED.match(text[end:].lstrip()):  # opened, and never closed
        end = len(text)
    return Said(text[:end], text[end:].lstrip() if end else text)


def without_opened_thought(prompt: str) -> str:
    """A prompt without the empty thought at its end, closed or not.

    Args:
        prompt: All that the model is asked.
    """
    return _LEFT_EMPTY.sub("", prompt)
