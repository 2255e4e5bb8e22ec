"""Written: what a template makes of a conversation, and where each turn's text stands in it."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from asft_lightning.chat.rows import Turn

_START, _END = "\ufdd2", "\ufdd3"  # Unicode keeps these two from ever being characters
MARK = f"{_START}(\\d+){_END}"
"""Pattern of :func:`text_mark`."""
_MARK = re.compile(MARK)


class Written(NamedTuple):
    """A conversation as one text.

    Attributes:
        text: All of it.
        spans: Where the text of a turn begins and ends, by the turn's place; not of turns that are blank or left out.
    """

    text: str
    spans: dict[int, tuple[int, int]]

    def lacks(self, turns: Sequence[Turn]) -> Turn | None:
        """The first turn that does not stand in the text as it was given; blanks may be others."""
        for place, turn in enumerate(turns):
            said = turn.content.strip()
            if said and (place not in self.spans or not _ends_with(self.text[: self.spans[place][1]], said)):
                return turn
        return None


def text_mark(place: int) -> str:
    """What marks the text of the turn of this place."""
    return f"{_START}{place}{_END}"


def without_marks(conversations: Sequence[Sequence[Turn]]) -> Sequence[Sequence[Turn]]:
    """The conversations without what would pass for a mark."""
    all_of_them = "".join([turn.content for turns in conversations for turn in turns])
    if _START not in all_of_them and _END not in all_of_them:  # as nearly always
        return conversations
    return [
        [turn._replace(content=turn.content.replace(_START, "").replace(_END, "")) for turn in turns]
        for turns in conversations
    ]


def with_marks(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, each with a mark where its text ends; blanks stay behind it, for templates strip them."""
    marked = []
    for place, turn in enumerate(turns):
        said = turn.content.rstrip()
        mark = text_mark(place) if said else ""  # templates ask whether there is a text
        marked.append(Turn(turn.role, said + mark + turn.content[len(said) :], turn.learnt))
    return marked


def find_marks(text: str, turns: Sequence[Turn]) -> Written:
    """What was written of the turns, from a text with the marks of :func:`with_marks`, which are taken off."""
    bare, *pieces = _MARK.split(text)  # text, place, text, place, …, text
    spans = {}
    for place, piece in zip(map(int, pieces[::2]), pieces[1::2], strict=True):
        spans[place] = len(bare) - len(turns[place].content.strip()), len(bare)
        bare += piece
    return Written(bare, spans)


def _ends_with(text: str, said: str) -> bool:
    return text.endswith(said) or "".join(text.split()).endswith("".join(said.split()))
