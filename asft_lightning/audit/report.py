"""AuditReport: what an audit found and did, in plain data and as a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asft_lightning.data.example import Example
from asft_lightning.data.rulings import Ruling
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import say

_DONE = {"report": "reported", "drop": "dropped", "relabel": "relabelled", "weight": "weighted"}
"""{action: what has become of a row}."""
_MOST = 0.25
"""Share of the rows that may be flagged without a word: poison is rarely more."""
_HINT = (
    "So many are rarely all harmful: the aligned model may refuse the task itself. Give audit.unsafe prompts or "
    "audit.harmless rows, which say how sure a refusal has to be."
)


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Args:
        rows: How many were looked at.
        counts: ``flagged`` of them, and how many of those were ``kept`` by name, ``dropped``, ``relabelled``, ``weighted``.
        thresholds: {score: beyond which value it flags}; None where it flags nothing.
        rates: ``false_flags`` and ``misses`` that the thresholds stand for, where there are known rows to find them by.
        sources: For each source its ``name``, ``kind``, how many ``rows`` it has, and how many are ``flagged``.
    """

    rows: int
    counts: dict[str, int]
    thresholds: dict[str, float | None]
    rates: dict[str, float]
    sources: list[dict[str, Any]]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        thresholds = {name: None if value in (None, float("-inf")) else value for name, value in self.thresholds.items()}
        facts = {"rows": self.rows, **self.counts, "thresholds": thresholds, **self.rates}
        return {**facts, "sources": self.sources}

    def show(self) -> None:
        """Print a table, and below it what was done."""
        lines = [
            [source["name"], source["kind"], str(source["rows"]), str(source["flagged"]), _share(source)]
            for source in self.sources
        ]
        show(Sheet(["source", "kind", "rows", "flagged", "%"], lines, "Audit by the aligned model", texts=2))
        done = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count or name == "flagged")
        say(f"of {self.rows} rows {done}")
        if self.counts["flagged"] > _MOST * self.rows and not self.rates:
            say(_HINT)


def report_of(
    examples: Sequence[Example],
    rulings: Sequence[Ruling],
    thresholds: dict[str, float | None],
    rates: dict[str, float],
    kept: int,
) -> AuditReport:
    """The report on rows.

    Args:
        examples: All that were looked at.
        rulings: On those that were flagged.
        thresholds: Of each score.
        rates: Of mistakes, that they stand for.
        kept: How many rows were not flagged because they are named.
    """
    done = Counter(_DONE[ruling.action] for ruling in rulings)
    rows = Counter((example.source, example.kind) for example in examples)
    flagged = Counter((examples[ruling.place].source, examples[ruling.place].kind) for ruling in rulings)
    sources = [
        {"name": name, "kind": kind, "rows": count, "flagged": flagged[name, kind]}
        for (name, kind), count in rows.most_common()
    ]
    counts = {"flagged": len(rulings), "kept": kept, **{name: done[name] for name in _DONE.values() if name != "reported"}}
    return AuditReport(len(examples), counts, thresholds, rates, sources)


def _share(source: dict[str, Any]) -> str:
    return f"{100 * source['flagged'] / source['rows']:.1f}"
