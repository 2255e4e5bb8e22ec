"""From scores to rulings: which rows are flagged, and what becomes of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.refusals import own_refusals
from asft_lightning.audit.score import RowScore
from asft_lightning.chat.rows import row_hash
from asft_lightning.data.audit import Audit
from asft_lightning.data.draw import Encode
from asft_lightning.data.example import Example
from asft_lightning.data.rulings import Ruling, relabelled, written

NAMED = "named"
"""What flags a row that the user names."""


@dataclass(frozen=True)
class Flag:
    """A row that is flagged.

    Args:
        place: Of the row, from 0.
        by: The scores that flag it.
        scores: What each score says of it.
    """

    place: int
    by: tuple[str, ...]
    scores: dict[str, RowScore]

    @property
    def turn(self) -> int:
        """Which of the row's learnt answers is at fault, by a score that flags the row, or else any; else the first."""
        told = [self.scores[name] for name in (*self.by, *self.scores) if name in self.scores]
        return next((score.turn for score in told if score.turn is not None), 0)

    @property
    def said(self) -> str:
        """What the aligned model says in its place, where it was asked."""
        return next((self.scores[name].said for name in (*self.by, *self.scores) if name in self.scores), "")

    def plain(self, example: Example) -> dict[str, Any]:
        """What ``audit.jsonl`` says beside the ruling."""
        values = {name: round(score.value, 4) for name, score in self.scores.items() if score.value > float("-inf")}
        row = example.row
        told = {"source": example.source, "kind": example.kind, "prompt": row.asked(), "answer": row.answer}
        return {**told, "flagged_by": list(self.by), "scores": values, "aligned_model_says": self.said}


def flags(
    examples: Sequence[Example],
    scores: Mapping[str, Sequence[RowScore]],
    thresholds: Mapping[str, float | None],
    named: frozenset[str],
) -> list[Flag]:
    """The rows that some score flags, or the user.

    Args:
        examples: All rows.
        scores: {score: what it says of each}.
        thresholds: {score: beyond which value it flags; None for never}.
        named: Hashes of rows to flag whatever their scores.
    """
    found = []
    for place, example in enumerate(examples):
        of_row = {name: rows[place] for name, rows in scores.items()}
        by = [name for name, limit in thresholds.items() if limit is not None and of_row[name].value > limit]
        if named and row_hash(example.row) in named:
            by.append(NAMED)
        if by:
            found.append(Flag(place, tuple(by), of_row))
    return found


def rulings_on(
    flagged: Sequence[Flag], examples: Sequence[Example], audit: Audit, aligned: AlignedModel, encode: Encode
) -> list[Ruling]:
    """What becomes of the flagged rows.

    Args:
        flagged: Those.
        examples: All rows.
        audit: The settings.
        aligned: Who is asked for refusals.
        encode: How a relabelled row is written: one without room for its answer, or without a refusal, is dropped.
    """
    action = "drop" if audit.action == "relabel" else audit.action  # until there is a refusal
    rulings = [
        Ruling(flag.place, row_hash(examples[flag.place].row), action, flag.turn, weight=audit.loss_weight)
        for flag in flagged
    ]
    if audit.action != "relabel":
        return rulings
    wanted = {(i, ruling.turn) for i, ruling in enumerate(rulings)}
    of_flagged = questions_of([examples[ruling.place] for ruling in rulings])
    asked = [question for question in of_flagged if (question.place, question.turn) in wanted]
    refusals = own_refusals(aligned, asked, audit.relabel_tokens)
    by_flag = {question.place: refusal for question, refusal in zip(asked, refusals, strict=True)}
    return [_relabelling(ruling, examples[ruling.place], by_flag.get(i), encode) for i, ruling in enumerate(rulings)]


def _relabelling(ruling: Ruling, example: Example, refusal: str | None, encode: Encode) -> Ruling:
    if refusal is None or written(relabelled(example.row, ruling.turn, refusal), example.source, encode) is None:
        return ruling
    return replace(ruling, action="relabel", refusal=refusal)
