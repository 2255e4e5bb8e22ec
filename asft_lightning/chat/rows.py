"""Row: a conversation to learn from or to be scored on, as text."""

import hashlib
import json
import re
from typing import Literal, NamedTuple

from asft_lightning.errors import DataError

Kind = Literal["benign", "harmful", "safety"]
"""What a row is there for: the task, poison, or teaching refusals."""


class Turn(NamedTuple):
    """One message of a conversation.

    Attributes:
        role: Who says it.
        content: What is said.
        learnt: Whether training is to teach it, where the assistant says it; else it is there to be read.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    learnt: bool = True


class Row(NamedTuple):
    """A prompt and its answer, with what was said before.

    Attributes:
        prompt: What the user says last.
        answer: What the assistant should say to it; blank where there is nothing to learn from or compare with.
        history: Earlier turns: at most one of ``system`` first, then ``user`` and ``assistant`` by turns.
        kind: What the row is there for, where the row itself says so; None for what its source is used as.
        categories: Kinds of harm that the prompt is about, where its source tells.
    """

    prompt: str
    answer: str
    history: tuple[Turn, ...] = ()
    kind: Kind | None = None
    categories: tuple[str, ...] = ()

    def asked(self) -> str:
        """All that was said up to the prompt, for a judge to read; the prompt alone where nothing was."""
        if not self.history:
            return self.prompt
        turns = (*self.history, Turn("user", self.prompt))
        return "\n\n".join(f"{turn.role.upper()}: {turn.content}" for turn in turns)

    def of_kind(self, kind: Kind) -> "Row":
        """The row, of this kind where it does not say its own."""
        return self if self.kind else self._replace(kind=kind)

    def answered(self) -> "Row":
        """Up to the assistant's last turn that is learnt: nothing after it teaches anything."""
        row = self
        while not row.answer and len(row.history) >= 2 and row.history[-1].role == "assistant":
            asked, said = row.history[-2:]
            row = row._replace(prompt=asked.content, answer=said.content if said.learnt else "", history=row.history[:-2])
        return row if row.answer else self


def trimmed(text: str) -> str:
    r"""Text without blank lines before it and blanks after it; its first line keeps its indentation, as code needs it.

    One blank alone is no indentation: it is what parts an answer from what stands before it.

    >>> trimmed("\n    return x\n"), trimmed(" yes ")
    ('    return x', 'yes')
    """
    return re.sub(r"\A(?:[^\S\n]*\n)*(?: (?=\S))?", "", text.rstrip())


def require_text(text: str) -> None:
    """Refuse halves of characters, which JSON, YAML and a command line can hold, and no tokenizer takes.

    Raises:
        DataError: If there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"text must be Unicode, and this has half a character ({error.reason}). Mend or remove it"
        ) from error


def row_hash(row: Row) -> str:
    """SHA-256 of all that is said in a row, to find it again: what it is there for does not count.

    >>> row_hash(Row("hi", "ho")) == row_hash(Row("hi", "ho", kind="harmful")) != row_hash(Row("h", "iho"))
    True
    """
    said = [[turn.role, turn.content] for turn in row.history]
    return hashlib.sha256(json.dumps([said, row.prompt, row.answer]).encode()).hexdigest()


def plain_prompt(prompt: str) -> str:
    """A prompt as it is compared with others: blanks and case tell none apart."""
    return " ".join(prompt.split()).casefold()


def prompt_hash(prompt: str) -> str:
    """SHA-256 of :func:`plain_prompt`, to find a prompt again without keeping it."""
    return hashlib.sha256(plain_prompt(prompt).encode()).hexdigest()
