"""A conversation in pieces: what a model is asked, what it answers, by turns."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from asft_lightning.chat.ends import End
from asft_lightning.chat.rows import Turn
from asft_lightning.chat.styles import STYLES
from asft_lightning.chat.written import Written
from asft_lightning.errors import ConfigurationError


class Piece(NamedTuple):
    """A part of a conversation's text; all parts together are the text.

    Attributes:
        text: The part.
        said: How many characters of it are the model's answer, before its end; None where it says nothing of the part.
    """

    text: str
    said: int | None = None

    def open(self, blanks: str = "") -> "Piece":
        """The part without the answer's end, for the model to go on from; with these blanks where the template keeps them."""
        kept = blanks if self.text.startswith(blanks, self.said) else ""
        return self._replace(text=self.text[: self.said] + kept)


def pieces(
    write: Callable[[Sequence[Turn]], Written], turns: Sequence[Turn], find_end: Callable[[], End]
) -> Iterator[Piece]:
    """What the model is asked and what it answers, by turns, in the text of the whole conversation.

    Nothing follows the end of the last answer. An answer begins where the text leaves what the model is asked: mostly at the
    end of that; before it where a template opens a thought for the model that it does not write in finished turns.

    Args:
        write: Writes turns, open for an answer where the last is the user's.
        turns: The conversation.
        find_end: Tells what ends an answer. After an earlier one, where a template may write another, only this one is said.

    Raises:
        ConfigurationError: If a turn is not written as it was when the model was asked.
    """
    whole, at = write(turns), 0
    for place, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        is_last = place == len(turns) - 1
        end, begin = find_end(), _begin(write(turns[:place]), whole, place)
        said = max(whole.spans.get(place, (0, 0))[1], begin)
        until = len(whole.text) if is_last else whole.spans.get(place + 1, (len(whole.text), 0))[0]
        found = whole.text.find(end.token, said, until)
        stop = said if found < 0 else found + len(end.token)
        yield Piece(whole.text[at:begin])
        yield Piece(whole.text[begin:stop] + (end.token if is_last and found < 0 else ""), said - begin)
        at = stop
    if turns[-1].role == "user":
        yield Piece(whole.text[at:])


def _begin(asked: Written, whole: Written, place: int) -> int:
    """Where in the whole text the answer of this place begins, of which the model is asked."""
    if whole.text.startswith(asked.text):
        return len(asked.text)
    same = next(i for i, letter in enumerate(asked.text) if whole.text[i : i + 1] != letter)
    if same < max((stop for _, stop in asked.spans.values()), default=len(asked.text)):
        around = asked.text[same : same + 40]
        raise ConfigurationError(
            f"a chat template must leave earlier turns as they were, and this one rewrites what came before {around!r}. "
            f"Split such conversations into one a turn, or set template.style to one of {', '.join(STYLES)}."
        )
    return min(same, whole.spans.get(place, (same, 0))[0])
