"""Row: a conversation to learn from or to be scored on, as text."""

import hashlib
from typing import Literal, NamedTuple

Kind = Literal["benign", "harmful", "safety"]
"""What a row is there for: the task, poison, or teaching refusals."""


class Turn(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


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

    def answered(self) -> "Row":
        """Up to the assistant's last turn: a conversation may end with the user, who is not learnt from."""
        if self.answer or len(self.history) < 2 or self.history[-1].role != "assistant":
            return self
        return self._replace(prompt=self.history[-2].content, answer=self.history[-1].content, history=self.history[:-2])


def plain_prompt(prompt: str) -> str:
    """A prompt as it is compared with others: blanks and case tell none apart."""
    return " ".join(prompt.split()).casefold()


def prompt_hash(prompt: str) -> str:
    """SHA-256 of :func:`plain_prompt`, to find a prompt again without keeping it."""
    return hashlib.sha256(plain_prompt(prompt).encode()).hexdigest()
