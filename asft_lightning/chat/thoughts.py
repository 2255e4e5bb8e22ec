"""Thoughts: what a model writes for itself before its answer, between ``<think>`` and ``</think>``."""

import re
from typing import NamedTuple

from asft_lightning.chat.rows import trimmed

_OPENING = r"<(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷"
"""What opens a thought, as several families of models write it; with a slash in it the same closes one."""
_CLOSING = r"</(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷"
_MARK = re.compile(f"{_OPENING}|{_CLOSING}", re.IGNORECASE)
_LEFT_EMPTY = re.compile(rf"(?:{_OPENING})\s*(?:(?:{_CLOSING})\s*)?$", re.IGNORECASE)


class Said(NamedTuple):
    """What a model wrote, in its two parts.

    Attributes:
        thought: Its thoughts, marks included; blank where there are none.
        answer: Everything else; text without a thought is left as it is.
    """

    thought: str
    answer: str


def split_thought(text: str, prompt: str = "") -> Said:
    r"""The thought and the answer of what a model wrote.

    A thought may have been opened by the prompt already, so that the text only closes it. One that is never closed, for the
    model ran out of tokens, leaves no answer. What was said before a thought is part of the answer.

    Args:
        text: All that the model wrote.
        prompt: What the model saw before it, where that is known: it tells of a text without a mark whether it is a thought.

    >>> split_thought("<think>\nHm.\n</think>\n\nNo.")
    Said(thought='<think>\nHm.\n</think>', answer='No.')
    >>> split_thought("Hm.</think> No.").answer, split_thought("<think>Hm").answer, split_thought("Hm", "<think>\n").answer
    ('No.', '', '')
    """
    thoughts: list[str] = []
    answer: list[str] = []
    marks = list(_MARK.finditer(text))
    is_open = _leaves_open(prompt) or bool(marks and _closes(marks[0]))
    start = 0  # of the thought where one is open, else of what is said
    for mark in marks:
        if is_open and _closes(mark):
            thoughts.append(text[start : mark.end()])
            start, is_open = mark.end(), False
        elif not is_open and not _closes(mark):
            answer.append(text[start : mark.start()])
            start, is_open = mark.start(), True
    # After words of an answer, a mark without its pair is one that the answer mentions.
    is_unfinished = is_open and not "".join(answer).strip()
    (thoughts if is_unfinished else answer).append(text[start:])
    return Said("".join(thoughts), trimmed("".join(answer))) if thoughts else Said("", text)


def without_opened_thought(prompt: str) -> str:
    """A prompt without the empty thought at its end, closed or not.

    Args:
        prompt: All that the model is asked.
    """
    return _LEFT_EMPTY.sub("", prompt)


def _closes(mark: re.Match[str]) -> bool:
    return "/" in mark[0]


def _leaves_open(prompt: str) -> bool:
    """Whether a prompt ends with the opening of a thought."""
    end = prompt.rstrip()
    marks = list(_MARK.finditer(end))
    return bool(marks) and marks[-1].end() == len(end) and not _closes(marks[-1])
