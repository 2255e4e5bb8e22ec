"""Columns: which columns of a record make a row; only their names are replaced, nothing in a record is interpreted."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from asft_lightning.chat.rows import Row, Turn, trimmed
from asft_lightning.data.conversations import history_beside
from asft_lightning.data.readers import Record
from asft_lightning.data.values import categories, record_value
from asft_lightning.errors import DataError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
"""A brace that is text, the name of a column in braces, or a brace that is neither."""


@dataclass(frozen=True)
class Columns:
    r"""How a record is written as a row.

    Args:
        prompt: What the user says, with columns' names in braces, e.g. ``"{instruction}\n\n{input}"``, and ``{{`` and ``}}``
            for braces that are text; blank ends are stripped.
        answer: What the assistant should say, e.g. ``"{output}"``; its indentation is kept.
        labels: Where the answer's columns hold integers, the text of 0, 1, …
        category: The column of the kinds of harm that a prompt is about: text, a list of text, or {kind: whether}.
        optional: Columns that a record may lack.
        with_history: Whether columns ``system`` and ``history`` say what was said before.
        system: The system prompt, written as ``prompt`` is; ``""`` for none.
        alone: Whether records with further columns are of another kind.

    Raises:
        DataError: If a brace stands alone.
    """

    prompt: str
    answer: str
    labels: Sequence[str] | None = None
    category: str | None = None
    optional: tuple[str, ...] = ()
    with_history: bool = False
    system: str = ""
    alone: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be a column's name."""
        for text in self._texts:
            if any(match[0] in ("{", "}") for match in _PIECE.finditer(text)):
                raise DataError(
                    f"braces must stand around a column's name, got {text!r:.60}. Double those that are text: {{{{ and }}}}"
                )

    @property
    def _texts(self) -> tuple[str, ...]:
        return self.prompt, self.answer, self.system

    def fit(self, record: Record) -> bool:
        """Whether a record has all columns that are needed."""
        needed = {match[1] for text in self._texts for match in _PIECE.finditer(text)}
        has_needed = (needed | {self.category}) - {None, *self.optional} <= record.keys()
        return has_needed and (not self.alone or record.keys() <= needed)

    def row(self, record: Record, counts: Counter[str] | None = None) -> Row:
        """The record as a row.

        Args:
            record: One of a source's.
            counts: As of :func:`~asft_lightning.data.conversations.conversation`.

        Raises:
            DataError: If a column is absent, holds no text or number, or a label has no text.
        """
        prompt = _filled(self.prompt, lambda column: self._text(record, column)).strip()
        answer = trimmed(_filled(self.answer, lambda column: self._label(self._text(record, column))))
        if self.labels and answer and not any(label in answer for label in self.labels):
            raise DataError(
                f"an answer with `labels` must be one of {list(self.labels)}, got {answer!r:.60}. Name all labels"
            )
        history = history_beside(record, Counter() if counts is None else counts) if self.with_history else ()
        if system := _filled(self.system, lambda column: self._text(record, column)).strip():
            history = (Turn("system", system), *history)
        return Row(prompt, answer, history, categories=categories(record, self.category))

    def _text(self, record: Record, column: str) -> str:
        if column in self.optional and column not in record:
            return ""
        remedy = "Write prompt and answer with those, e.g. prompt: '{COLUMN}', and {{ }} for braces that are text"
        value = record_value(record, column, remedy)
        if isinstance(value, list | dict | bytes | bytearray):
            raise DataError(
                f"column {column!r} must hold text or a number, got {value!r:.60}. Give a conversation as `messages`"
            )
        return "" if value is None or value != value else str(value)  # NaN is what some writers make of null

    def _label(self, text: str) -> str:
        """The text of a label, which a file may have as 1, 1.0 or true."""
        index = {"true": "1", "false": "0"}.get(text.lower(), text)
        if not self.labels or not re.fullmatch(r"-?\d+(\.0)?", index):
            return text
        number = index.removesuffix(".0").lstrip("0") or "0"
        if not number.isdecimal() or len(number) > len(str(len(self.labels))) or int(number) >= len(self.labels):
            raise DataError(f"a label must be 0 to {len(self.labels) - 1}, got {index:.20}. Complete `labels`")
        return self.labels[int(number)]


INSTRUCTIONS = Columns("{instruction}\n\n{input}", "{output}", optional=("input",), with_history=True)
"""Instruction files, as Alpaca's and LLaMA-Factory's."""
COMPLETIONS = Columns("{prompt}", "{completion}")
"""Files of prompts and completions, as TRL's."""
PROMPTS = Columns("{prompt}", "", alone=True)
"""Files of prompts and nothing else."""


def _filled(text: str, value: Callable[[str], str]) -> str:
    """``text`` with each column's name in braces replaced, in one pass."""
    return "".join([value(piece) if is_column else piece for is_column, piece in _pieces(text)])


@cache
def _pieces(text: str) -> list[tuple[bool, str]]:
    """What ``text`` is made of, and which of it are columns' names."""
    pieces, at = list[tuple[bool, str]](), 0
    for match in _PIECE.finditer(text):
        pieces += (False, text[at : match.start()]), (bool(match[1]), match[1] or match[0][0])
        at = match.end()
    return [*pieces, (False, text[at:])]
