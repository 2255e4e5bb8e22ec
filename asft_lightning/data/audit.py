"""Audit: what is asked of the aligned model about the training rows, and what becomes of those it would not answer so."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from asft_lightning.data.source import Source
from asft_lightning.errors import DataError

Action = Literal["report", "drop", "relabel", "weight"]
"""What becomes of a flagged row: nothing; it is left out; it is answered as the aligned model would; it counts less."""

ScoreName = Literal["refused", "surprise", "likeness", "conflict"]


@dataclass(frozen=True)
class Audit:
    """The aligned model looks through the training rows before anything is trained: ``data.audit`` of a config.

    It sees the rows that were drawn, in their order, and looks at none of their labels. A row that is dropped leaves the
    others as they were, in number too: nothing is drawn in its place. Safety rows are not audited, and no row is flagged for
    an answer that is itself a refusal.

    Args:
        action: ``report`` changes nothing; ``drop`` leaves flagged rows out; ``relabel`` puts the aligned model's own
            refusal in the place of the answer, and the row is then a safety row (one that the model does not refuse is
            dropped); ``weight`` multiplies the row's loss.
        scores: What is asked. ``refused``: whether the model refuses the prompt, and how surely. ``surprise``: how much
            less likely than the model's own answer the row's is, in nats a token. ``likeness``: how like ``unsafe`` prompts,
            and unlike ``harmless`` ones, the prompt looks to the model inside. ``conflict``: how far the row's gradient
            points where those of ``unsafe`` prompts with complying answers do, and not where those of ``harmless`` rows and
            of the model's refusals do.
        harmless: Rows that should not be flagged, of a kind the model may meet (such as instructions): a score then flags
            only beyond what ``false_flags`` of them reach.
        num_harmless: How many of them are read, from the first; ``likeness`` takes every second one to compare with, and
            ``conflict`` 32, and the others for its threshold.
        unsafe: Unsafe prompts, from one source or by turns from several. Where the model refuses more than ``unsure_above``
            of all rows, ``refused`` flags only what is refused as surely as all but ``misses`` of these: a task that the
            model is unsure of, and refuses in part, is not taken for poison. ``likeness`` and ``conflict`` compare with
            them; ``conflict`` also with their answers, or where one is blank or a refusal, with an opening that complies.
            Otherwise, without harmless rows, ``refused`` flags every row whose prompt the model refuses, and the others
            score none. Of two thresholds the higher counts.
        num_unsafe: How many of them are read, from the first.
        false_flags: The share of rows like the harmless ones that a score may flag, 0..1.
        misses: The share of rows like the unsafe prompts that the model refuses which ``refused`` may leave, 0..1; but one
            of the prompts always is.
        unsure_above: The share of all rows, 0..1, that poison may make up: see ``unsafe``.
        weight: What ``weight`` multiplies the loss of a flagged row with, 0..1.
        max_new_tokens: Of the short answer by which a refusal is known.
        relabel_tokens: Of the longest refusal that ``relabel`` puts in an answer's place; a longer one ends with a sentence.
        keep: A file of rows that are not flagged, whatever their scores: lines of an ``audit.jsonl``, or their ``sha256``.
        flag: A file of rows that are flagged, likewise.
        batch_size: Rows a batch when the aligned model is asked; a quarter of them where `conflict` goes back through it.

    Raises:
        DataError: If a number cannot be, or there is no such action or score.
    """

    action: Action = "report"
    scores: list[ScoreName] = field(default_factory=lambda: ["refused"])
    harmless: Source | None = None
    num_harmless: int = 500
    unsafe: Source | list[Source] | None = None
    num_unsafe: int = 64
    false_flags: float = 0.01
    misses: float = 0.05
    unsure_above: float = 0.25
    weight: float = 0.1
    max_new_tokens: int = 24
    relabel_tokens: int = 64
    keep: str | None = None
    flag: str | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse settings that cannot be before anything is read."""
        if self.action not in get_args(Action):
            raise DataError(f"audit.action must be one of {', '.join(get_args(Action))}, got {self.action!r}.")
        if not self.scores or not set(self.scores) <= set(get_args(ScoreName)):
            raise DataError(f"audit.scores must be some of {', '.join(get_args(ScoreName))}, got {self.scores}.")
        if not (0 < self.false_flags < 1 and 0 < self.misses < 1 and 0 <= self.unsure_above <= 1 and 0 <= self.weight <= 1):
            raise DataError(
                "audit.false_flags and misses must lie between 0 and 1, unsure_above and weight in 0..1, got "
                f"{self.false_flags}, {self.misses}, {self.unsure_above} and {self.weight}. They are shares: 0.01 is 1 %."
            )
        comparing = [name for name in ("likeness", "conflict") if name in self.scores]
        if comparing and None in (self.unsafe, self.harmless):
            raise DataError(
                f"audit.scores {comparing[0]} compares audit.unsafe prompts with audit.harmless rows. Give both, or leave "
                "it out."
            )
        if self.unsafe is not None and not comparing and "refused" not in self.scores:
            raise DataError(
                f"audit.unsafe prompts have no answers, and audit.scores {', '.join(self.scores)} looks at answers alone. "
                "Leave them out, or ask for refused, likeness or conflict too."
            )
        counts = (self.num_harmless, self.num_unsafe, self.max_new_tokens, self.relabel_tokens, self.batch_size)
        if min(counts) < 1:
            raise DataError(
                "audit.num_harmless, num_unsafe, max_new_tokens, relabel_tokens and batch_size must be 1 or more, got "
                f"{', '.join(map(str, counts))}."
            )
        if self.harmless is not None and self.num_harmless < least_harmless(self.false_flags):
            raise DataError(
                f"audit.false_flags {self.false_flags} needs {least_harmless(self.false_flags)} harmless rows or more, "
                f"got num_harmless {self.num_harmless}. Give more rows, or allow more false flags."
            )

    @property
    def loss_weight(self) -> float | None:
        """What the loss of a flagged row is multiplied with; None where that is not the action."""
        return self.weight if self.action == "weight" else None


def least_harmless(false_flags: float) -> int:
    """How many harmless rows it takes to know a threshold of this rate of false flags, 0..1.

    >>> least_harmless(0.01)
    99
    """
    return math.ceil(round(1 / false_flags, 9)) - 1
