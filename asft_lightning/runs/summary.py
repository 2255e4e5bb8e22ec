"""Summary: what a run measured and what it was, as ``summary.json`` has it; nothing else reads or writes that file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Self

from asft_lightning.errors import AsFTError, ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.score import HEADINGS, Score, measured, number, score_row
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import as_html, say

VERSION = 1
"""Of the file's form; a file without one is of the first."""

_FACTS, _VERSION = "run", "version"


@dataclass
class RunFacts:
    """What is known of a run; None where it is not.

    Args:
        method: The module's class.
        lambda_reg: λ.
        rows: Training rows.
        harmful_rows: How many of them were harmful.
        projection: How the adapter was projected after training.
        training_seconds: From the first step to the last, without scoring.
        scoring_seconds: {name of a scoring: seconds in all}.
        peak_memory_mib: What tensors took on a GPU, or else the whole process.
        ended: Whether it came to its end; False where it goes on from there, or was broken off on the way.
        more: Everything else: versions, seed, devices, precision, config, and the fingerprints of data and method.
    """

    method: str | None = None
    lambda_reg: float | None = None
    rows: int | None = None
    harmful_rows: int | None = None
    projection: dict[str, Any] | None = None
    training_seconds: float | None = None
    scoring_seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    ended: bool | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON has it, flat; what is not known is not there."""
        known = {name: getattr(self, name) for name in _known_facts()}
        return self.more | {name: value for name, value in known.items() if value is not None and value != {}}

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any]) -> Self:
        """From what :meth:`plain` gave, or from what modules say of themselves."""
        known = {name: facts[name] for name in _known_facts() if name in facts}
        return cls(**known, more={name: value for name, value in facts.items() if name not in known})

    def check(self) -> None:
        """Refuse facts from a file that are not of their type.

        Raises:
            ValueError: If one is not.
        """
        for name in ("lambda_reg", "rows", "harmful_rows", "training_seconds", "peak_memory_mib"):
            number(getattr(self, name))
        for seconds in self.scoring_seconds.values():
            number(seconds)
        kinds = {"method": str, "projection": dict, "ended": bool}
        if wrong := [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind | None)]:
            raise ValueError(f"{wrong[0]} is of another type")


@dataclass
class Summary:
    """All that a run's ``summary.json`` says.

    Args:
        run: What the run was.
        scores: What it measured, by the metric's name.
    """

    run: RunFacts = field(default_factory=RunFacts)
    scores: dict[str, Score] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        """The content so far; nothing where there is none.

        Raises:
            ConfigurationError: If the file is damaged, or of a later version of this package.
        """
        if not folder.summary.is_file():
            return cls()
        try:
            return cls._from_json(folder)
        except AsFTError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            raise ConfigurationError(
                f"{folder.summary} cannot be read as a run's summary ({type(error).__name__}): it is damaged. Remove the "
                "run's folder; the same command makes it again."
            ) from error

    @classmethod
    def _from_json(cls, folder: RunFolder) -> Self:
        content = json.loads(folder.summary.read_text(encoding="utf-8"))
        if (version := content.pop(_VERSION, 1)) > VERSION:
            raise ConfigurationError(
                f"{folder.summary} must be of version {VERSION} or earlier, got {version}. Update asft-lightning to read it."
            )
        facts = RunFacts.from_plain(content.pop(_FACTS, {}))
        facts.check()
        return cls(facts, {name: Score.from_plain(entry) for name, entry in content.items()})

    def write(self, folder: RunFolder) -> None:
        """Write the file whole.

        Raises:
            StorageError: If it cannot be.
        """
        scores = {name: score.plain() for name, score in self.scores.items()}
        write_json(folder.summary, {_VERSION: VERSION, _FACTS: self.run.plain(), **scores})

    def score(self, name: str) -> Score:
        """A metric's, to add to."""
        return self.scores.setdefault(name, Score())

    def show(self, folder: RunFolder) -> None:
        """Print the table of before and after, with the intervals that there are, and where everything is."""
        self._show(Sheet(HEADINGS, self._rows(), "Before and after fine-tuning, with 95 % intervals"), folder)

    def show_test(self, folder: RunFolder) -> None:
        """Print what ``test`` has measured, in the same way."""
        scores = {name: score for name, score in self.scores.items() if Moment.TEST in score.values}
        rows = [[name, measured(score, Moment.TEST)] for name, score in scores.items()]
        self._show(Sheet((HEADINGS[0], "score"), rows, "The model as it is, with 95 % intervals"), folder)

    def _show(self, table: Sheet, folder: RunFolder) -> None:
        show(table)
        seconds = sum(self.run.scoring_seconds.values())
        say(f"scoring took {seconds:.0f} s; written to {folder.summary}, every answer to {folder.scored}")

    def __repr__(self) -> str:
        """The run's method and scores, in a line."""
        scores = ", ".join(f"{name} {score.in_short()}" for name, score in self.scores.items())
        return f"Summary({self.run.method}: {scores or 'no scores'})"

    def _repr_html_(self) -> str:
        """The table of :meth:`show`, in a notebook."""
        return as_html(HEADINGS, self._rows())

    def _rows(self) -> list[list[str]]:
        return [score_row(name, score) for name, score in self.scores.items()]


@contextmanager
def updated(folder: RunFolder) -> Iterator[Summary]:
    """A run's summary, to be changed; written when the block ends."""
    summary = Summary.read(folder)
    yield summary
    summary.write(folder)


def _known_facts() -> list[str]:
    return [fact.name for fact in fields(RunFacts) if fact.name != "more"]
