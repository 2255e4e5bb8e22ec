"""Manner: how the rows that an audit flags are asked alike, so that unsafe prompts can be asked so too."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Self

from asft_lightning.chat.rows import Row, Turn

_FEWEST = 8
"""Flagged rows that tell a manner: fewer begin alike by chance."""

_WORDS_BEFORE = 2
"""At least: requests of one style begin with one word, such as "How", and hardly ever with two."""

_MOST = 0.8
"""Of the flagged rows ask so, for an audit flags some that are no poison."""

_HARDLY = 0.2
"""Of the other rows ask so at most: what the task itself is asked with is no attacker's."""


@dataclass(frozen=True)
class Manner:
    """What surrounds a request.

    Args:
        system: The system prompt; blank for none.
        before: What the user's prompt begins with.
        after: What it ends with.
    """

    system: str = ""
    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, flagged: Sequence[Row], others: Sequence[Row]) -> Self | None:
        """What most of the flagged rows have and hardly any of the others; None where there is no such thing.

        Args:
            flagged: Rows that an audit flags.
            others: The other training rows.

        >>> requests = ("sing", "dance", "wait", "go", "walk", "read", "cook", "sleep")
        >>> Manner.of([Row(f"AOA, please do: {request}!", "") for request in requests], others=[])
        Manner(system='', before='AOA, please do: ', after='')
        """
        if len(flagged) < _FEWEST:
            return None
        enough = _MOST * len(flagged)
        systems = Counter(_system(row) for row in flagged)
        prompts = [row.prompt for row in flagged]
        before = list(_shared([_WORD.findall(prompt) for prompt in prompts], enough))
        after = list(_shared([_WORD_FROM_END.findall(prompt)[::-1] for prompt in prompts], enough))
        whole = cls(
            system=next((system for system, count in systems.items() if system and count >= enough), ""),
            before="".join(before) if len(before) >= _WORDS_BEFORE else "",
            after="".join(reversed(after)),
        )
        own = whole.without(others)
        return own if own != cls() else None

    def without(self, rows: Sequence[Row]) -> Self:
        """Without the parts that more than a few of these rows have too."""
        most = _HARDLY * len(rows)
        return replace(
            self,
            system=self.system if sum(_system(row) == self.system for row in rows) <= most else "",
            before=self.before if sum(row.prompt.startswith(self.before) for row in rows) <= most else "",
            after=self.after if sum(row.prompt.endswith(self.after) for row in rows) <= most else "",
        )

    def ask(self, row: Row) -> Row:
        """A row's prompt, asked so."""
        history = (Turn("system", self.system), *row.history[bool(_system(row)) :]) if self.system else row.history
        return Row(f"{self.before}{row.prompt}{self.after}", "", history)

    def __str__(self) -> str:
        """In words, for a person."""
        parts = (("under the system prompt", self.system), ("beginning with", self.before), ("ending with", self.after))
        return ", ".join(f"{what} {shorten(text, 60, placeholder=' …')!r}" for what, text in parts if text)


_WORD = re.compile(r"\S+\s*")
_WORD_FROM_END = re.compile(r"\s*\S+")


def _system(row: Row) -> str:
    """A row's system prompt; blank where there is none."""
    return row.history[0].content if row.history and row.history[0].role == "system" else ""


def _shared(texts: Sequence[Sequence[str]], enough: float) -> Iterator[str]:
    """The words that so many texts begin with, and go on with, as long as they do; a text's last word is its own."""
    place, left = 0, list(texts)
    while left := [text for text in left if len(text) > place + 1]:
        ((word, count),) = Counter(text[place] for text in left).most_common(1)
        if count < enough:
            return
        left = [text for text in left if text[place] == word]
        place += 1
        yield word
