"""Finding: what one judge, rater or rule found of one answer, and an answer with all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from asft_lightning.chat.rows import Row


class Finding(NamedTuple):
    """What was found of one answer.

    Attributes:
        facts: What to write beside it, plain data, e.g. ``{"unsafe": True}``.
        categories: Kinds of harm that a judge found, where it tells them apart.
        problem: Why it could not be scored; None where it could.
    """

    facts: Mapping[str, Any]
    categories: tuple[str, ...] = ()
    problem: str | None = None


Findings: TypeAlias = Finding | Mapping[str, Finding]
"""Of one answer: one finding, or several by the judges' names."""


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer to a prompt, and what was found of it.

    Args:
        row: The prompt, its reference and what was said before.
        answer: What the model wrote.
        scored: What of it was scored: all, or what came after its thought.
        findings: By the judge's name; blank where there is one.
    """

    row: Row
    answer: str
    scored: str
    findings: Mapping[str, Finding] = field(default_factory=dict)

    def problem(self, judge: str) -> str | None:
        """Why this judge could not score it, or why nobody could; None where it could."""
        told = (self.findings[name].problem for name in dict.fromkeys((judge, "")) if name in self.findings)
        return next((problem for problem in told if problem), None)

    @property
    def any_problem(self) -> str | None:
        """Why some judge could not score it; None where all could."""
        return next((finding.problem for finding in self.findings.values() if finding.problem), None)

    @property
    def is_only_thought(self) -> bool:
        """Whether no answer came after a thought."""
        return not self.scored.strip() and bool(self.answer.strip())

    def plain(self) -> dict[str, Any]:
        """As JSON has it; what several judges found stands under ``JUDGE/…``."""
        record: dict[str, Any] = {"prompt": self.row.prompt, "reference": self.row.answer, "answer": self.answer}
        if self.scored != self.answer:
            record["scored"] = self.scored
        if self.row.history:
            record["history"] = [{"role": turn.role, "content": turn.content} for turn in self.row.history]
        if self.row.categories:
            record["prompt_categories"] = list(self.row.categories)
        for judge, finding in self.findings.items():
            told = dict(finding.facts) | ({"problem": finding.problem} if finding.problem else {})
            record |= {f"{judge}/{name}" if judge else name: value for name, value in told.items()}
        return record
