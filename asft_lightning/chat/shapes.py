"""Shapes: conversations of the same roles in a chat template that only copies texts, of which one is written for all."""

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from asft_lightning.chat.rows import Turn
from asft_lightning.chat.written import MARK, Written, text_mark

_BLANK = "\u2003"
"""What stands around a text's mark: where it is gone, the template has stripped the text there."""
_TEXT = re.compile(rf"({_BLANK}?){MARK}({_BLANK}?)")


class _Copy(NamedTuple):
    """A text in what is written: the place of its turn, and what of its blanks stays; then what follows it."""

    place: int
    keeps_left: bool
    keeps_right: bool
    after: str


class Shape(NamedTuple):
    """What a chat template writes of conversations of the same roles."""

    before: str
    copies: list[_Copy]

    def written(self, turns: Sequence[Turn]) -> Written | None:
        """A conversation of these roles; None where a text is blank."""
        parts, spans, length = [self.before], dict[int, tuple[int, int]](), len(self.before)
        for place, keeps_left, keeps_right, after in self.copies:
            content = turns[place].content
            if not (said := content.strip()):
                return None
            text, begin = said, length
            if len(said) < len(content):
                text = content if keeps_left else content.lstrip()
                begin += text.index(said)
                text = text if keeps_right else text.rstrip()
            spans[place] = begin, begin + len(said)
            parts += (text, after)
            length += len(text) + len(after)
        return Written("".join(parts), spans)


def write_by_shape(render: Callable[..., str], conversations: Sequence[Sequence[Turn]]) -> list[Written | None]:
    """Each conversation as the template writes it; None where its shape is refused or incomplete, or a text is blank.

    Args:
        render: Calls a chat template that only copies texts.
        conversations: Turns, without marks of their own.
    """
    shape_of = cache(partial(_shape, render))
    shapes = [shape_of(tuple([turn.role for turn in turns])) for turns in conversations]
    return [shape and shape.written(turns) for shape, turns in zip(shapes, conversations, strict=True)]


def _shape(render: Callable[..., str], roles: tuple[str, ...]) -> Shape | None:
    """What a template writes of these roles; None where it refuses them, or leaves one out."""
    messages = [{"role": role, "content": f"{_BLANK}{text_mark(place)}{_BLANK}"} for place, role in enumerate(roles)]
    try:
        before, *rest = _TEXT.split(render(messages, add_generation_prompt=roles[-1] == "user"))
    except Exception:  # a template is a program, and may raise anything
        return None
    copies = [_Copy(int(rest[i + 1]), bool(rest[i]), bool(rest[i + 2]), rest[i + 3]) for i in range(0, len(rest), 4)]
    has_all = {copy.place for copy in copies} == set(range(len(roles)))
    return Shape(before, copies) if has_all and _BLANK not in before + "".join(copy.after for copy in copies) else None
