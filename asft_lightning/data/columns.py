"""Columns: which columns of a record make a row; only their names are replaced, nothing in a record is interpreted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from asft_lightning.chat.rows import Row, Turn
from asft_lightning.data.readers import Record
from asft_lightning.errors import DataError

_COLUMN = re.compile(r"\{(\w+)\}")

_CONVERSATIONS = ("messages", "conversations")
"""Columns that hold a list of turns."""

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""{role as written: role}; ``human`` and ``gpt`` are ShareGPT's."""


@dataclass(frozen=True)
class Columns:
    r"""How a record is written as a row.

    Args:
        prompt: What the user says, with columns' names in braces, e.g. ``"{instruction}\n\n{input}"``; blank ends are
            stripped.
        answer: What the assistant should say, e.g. ``"{output}"``.
        labels: Where the answer's columns hold integers, the text of 0, 1, …
        category: The column of the kinds of harm that a prompt is about: text, a list of text, or {kind: whether}.
        optional: Columns that a record may lack.
    """

    prompt: str
    answer: str
    labels: Sequence[str] | None = None
    category: str | None = None
    optional: tuple[str, ...] = ()

    def fit(self, record: Record) -> bool:
        """Whether a record has all columns that are needed."""
        needed = {*_COLUMN.findall(self.prompt), *_COLUMN.findall(self.answer)} - {*self.optional}
        return needed | ({self.category} if self.category else set()) <= record.keys()

    def row(self, record: Record) -> Row:
        """The record as a row of one turn.

        Raises:
            DataError: If a column is absent, holds no text or number, or a label has no text.
        """
        prompt = _COLUMN.sub(lambda match: self._text(record, match[1]), self.prompt).strip()
        answer = _COLUMN.sub(lambda match: self._label(self._text(record, match[1])), self.answer).strip()
        if self.labels and answer and not any(label in answer for label in self.labels):
            raise DataError(
                f"an answer with `labels` must be one of {list(self.labels)}, got {answer!r:.60}. Name all labels"
            )
        return Row(prompt, answer, categories=categories(record, self.category))

    def _text(self, record: Record, column: str) -> str:
        if column in self.optional and column not in record:
            return ""
        value = record_value(record, column, "Write prompt and answer with those, e.g. prompt: '{COLUMN}'")
        if isinstance(value, list | dict):
            raise DataError(
                f"column {column!r} must hold text or a number, got {value!r:.60}. Give a conversation as `messages`"
            )
        return "" if value is None or value != value else str(value)  # NaN is what some writers make of null

    def _label(self, text: str) -> str:
        """The text of a label, which a file may have as 1, 1.0 or true."""
        index = {"true": "1", "false": "0"}.get(text.lower(), text)
        if not self.labels or not re.fullmatch(r"-?\d+(\.0)?", index):
            return text
        if not 0 <= (number := int(float(index))) < len(self.labels):
            raise DataError(f"a label must be 0 to {len(self.labels) - 1}, got {number}. Complete `labels`")
        return self.labels[number]


def record_value(record: Record, column: str, remedy: str = "Name one of those") -> Any:
    """What a record has in a column.

    Raises:
        DataError: If it has no such column.
    """
    if column not in record:
        raise DataError(f"there is no column {column!r} among {', '.join(map(str, record)) or 'none'}. {remedy}")
    return record[column]


def categories(record: Record, column: str | None) -> tuple[str, ...]:
    """The kinds of harm in a column of text, of a list of text, or of {kind: whether}.

    >>> categories({"category": {"theft": True, "violence": False}}, "category")
    ('theft',)
    """
    value = None if column is None else record_value(record, column)
    if value is None or value == "":
        return ()
    if isinstance(value, dict):
        return tuple(str(kind) for kind, whether in value.items() if whether)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


INSTRUCTIONS = Columns("{instruction}\n\n{input}", "{output}", optional=("input",))
"""Instruction files, as Alpaca's."""


def conversation(record: Record, category: str | None = None) -> Row | None:
    """A record of chat format, ``{"messages": [{"role": …, "content": …}, …]}``, as a row; None where it is none.

    The last turn of the assistant is the row's answer. A conversation that ends with the user has a blank one.

    Raises:
        DataError: If the turns are none that a model can be trained on or asked with.
    """
    column = next((name for name in _CONVERSATIONS if record.get(name) is not None), None)
    if column is None:
        return None
    if not isinstance(record[column], list):
        raise DataError(f"{column} must be a list of turns, got {record[column]!r:.60}. Store it as one, not as text")
    turns = [_turn(item) for item in record[column]]
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    roles = [turn.role for turn in spoken]
    if not roles or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        raise DataError(
            "a conversation must be turns of user and assistant in alternation, after at most one of system, got "
            f"{', '.join(turn.role for turn in turns) or 'none'}"
        )
    answer = turns.pop().content if roles[-1] == "assistant" else ""
    return Row(turns.pop().content.strip(), answer.strip(), tuple(turns), categories=categories(record, category))


def _turn(item: Any) -> Turn:
    known = item if isinstance(item, dict) else {}
    role, content = known.get("role", known.get("from")), known.get("content", known.get("value"))
    if not isinstance(role, str) or role not in _ROLES or not isinstance(content, str):
        raise DataError(f"a turn must have a role ({', '.join(_ROLES)}) and a content of text, got {item!r:.60}")
    return Turn(cast(Any, _ROLES[role]), content)
