"""A conversation in pieces: what a model is asked, what it answers, by turns."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from asft_lightning.chat.ends import End
from asft_lightning.chat.rows import Turn
from asft_lightning.chat.styles import STYLES
from asft_lightning.chat.thoughts import without_opened_thought
from asft_lightning.chat.written import Written
from asft_lightning.errors import ConfigurationError


class Piece(NamedTuple):
    """A part of a conversation's text; all parts together are the text.

    Attributes:
        text: The part.
        said: How many characters of it are the model's answer, before its end; None where it says nothing of the part.
        learnt: Whether it is an answer to learn from.
    """

    text: str
    said: int | None = None
    learnt: bool = False

    def open(self, blanks: str = "") -> "Piece":
        """The part without the answer's end, for the model to go on from; with these blanks where the template keeps any."""
        kept = blanks if self.text.startswith(blanks, self.said) else ""
        return self._replace(text=self.text[: self.said] + kept)


def to_write(turns: Sequence[Turn]) -> list[Sequence[Turn]]:
    """What :func:`pieces` compares: the whole conversation, and what comes before each turn of the assistant."""
    return [turns, *(turns[:place] for place, turn in enumerate(turns) if turn.role == "assistant")]


def pieces(written: Iterator[Written], turns: Sequence[Turn], find_end: Callable[[], End]) -> Iterator[Piece]:
    """What the model is asked and what it answers, by turns, as the whole conversation is written.

    Nothing follows the end of the last answer.

    Args:
        written: Each of :func:`to_write` as it is written, open for an answer where the last turn is the user's.
        turns: The conversation.
        find_end: Tells what ends an answer. After an earlier one, where a template may write another, only this one is said.

    Raises:
        ConfigurationError: If a turn is not written as it was when the model was asked.
    """
    whole, at = next(written), 0
    for place, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        is_last = place == len(turns) - 1
        asked, begin = _asked(next(written), whole, place, is_last)
        end, said = find_end(), max(whole.spans.get(place, (0, 0))[1], begin)
        until = len(whole.text) if is_last else whole.spans.get(place + 1, (len(whole.text), 0))[0]
        found = whole.text.find(end.token, said, until)
        stop = said if found < 0 else found + len(end.token)
        yield Piece(asked[at:])
        yield Piece(whole.text[begin:stop] + (end.token if is_last and found < 0 else ""), said - begin, turn.learnt)
        at = stop
    if turns[-1].role == "user":
        yield Piece(whole.text[at:])


def _asked(open_turns: Written, whole: Written, place: int, is_last: bool) -> tuple[str, int]:
    """What the model is asked, and where its answer of this place begins in the whole text.

    A thought that the open turns begin, and the finished ones do not have, is not asked, nor is a blank before earlier
    answers. Where the two differ otherwise before the last answer, it follows what scoring asks.
    """
    asked = open_turns.text
    if whole.text.startswith(asked):
        return asked, len(asked)
    for text in (without_opened_thought(asked), *([] if is_last else [asked.rstrip()])):
        if whole.text.startswith(text):
            return text, len(text)
    same = next(i for i, letter in enumerate(asked) if whole.text[i : i + 1] != letter)
    given = max((stop for _, stop in open_turns.spans.values()), default=len(asked))
    if is_last and place in whole.spans and given <= same:
        return asked, whole.spans[place][0]
    raise ConfigurationError(
        "a chat template must leave earlier turns as they were, and this one rewrites what came before "
        f"{asked[same : same + 40]!r}. Split such conversations into one a turn, or set template.style to one of "
        f"{', '.join(STYLES)}."
    )
