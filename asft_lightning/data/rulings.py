"""Rulings: what an audit makes of a run's training rows, as a file of the run's folder that every rank reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, get_args

from asft_lightning.chat.rows import Row, row_hash
from asft_lightning.data.audit import Action, Audit
from asft_lightning.data.draw import Encode
from asft_lightning.data.example import Example
from asft_lightning.data.mixture import Mixture
from asft_lightning.errors import DataError
from asft_lightning.functional import IGNORE_INDEX
from asft_lightning.runs.folder import RunFolder


@dataclass(frozen=True)
class Ruling:
    """What becomes of one flagged row.

    Args:
        place: Of the row among those that were drawn, from 0.
        sha256: Its :func:`row_hash`.
        action: What becomes of it.
        turn: Which of its learnt answers is at fault, from 0.
        refusal: With ``relabel`` the answer that takes its place.
        weight: With ``weight`` what its loss is multiplied with.
    """

    place: int
    sha256: str
    action: Action
    turn: int = 0
    refusal: str | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        """Refuse what a file says that is no ruling.

        Raises:
            ValueError: If so.
        """
        is_told = {"relabel": isinstance(self.refusal, str), "weight": isinstance(self.weight, float)}
        numbers = (self.place, self.turn)
        if self.action not in get_args(Action) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError(f"no ruling: {self}")
        if not is_told.get(self.action, True):
            raise ValueError(f"a ruling without what it asks for: {self}")

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_plain(cls, line: dict[str, Any]) -> Self:
        """From what :meth:`plain` gave, whatever else stands beside it."""
        return cls(**{field.name: line[field.name] for field in fields(cls) if field.name in line})


def request_of(drawn: Mixture, audit: Audit) -> str:
    """A hash of what an audit is asked: which rows, and with which settings."""
    return hashlib.sha256(f"{drawn.fingerprint()} {audit!r}".encode()).hexdigest()


def require_audited(mixture: Mixture, audit: Audit | None) -> None:
    """Refuse to train on rows that an audit is asked for and that have seen none.

    Raises:
        DataError: If so.
    """
    if audit is not None and mixture.audit is None:
        raise DataError(
            "data.audit asks for an audit before training, and these rows have seen none: a fit makes it. Give the data to "
            "trainer.fit, or leave audit out."
        )


def read_audit(folder: RunFolder, request: str) -> tuple[list[Ruling], dict[str, Any]]:
    """The rulings of a run's audit, and what it says of itself.

    Args:
        folder: The run's.
        request: What the audit must have been asked: :func:`request_of`.

    Raises:
        DataError: If no such audit was made, or it cannot be read.
    """
    try:
        report = json.loads(folder.audit.read_text(encoding="utf-8")) if folder.audit.is_file() else {}
        if report.pop("request", None) != request:
            raise DataError(
                f"data.audit asks for an audit of the training rows, and {folder.path} holds none of these. The module "
                "makes it: call asft_lightning.audit.audit_run(self.trainer) in the prepare_data of a module of your own."
            )
        lines = folder.audited_rows.read_text(encoding="utf-8").splitlines()
        return [Ruling.from_plain(json.loads(line)) for line in lines], report
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder.audit} cannot be read as an audit ({error}). Remove it; the run makes it anew.") from error


def ruled(mixture: Mixture, rulings: Sequence[Ruling], report: dict[str, Any], encode: Encode) -> Mixture:
    """A mixture after its audit: the rows that stay are in the order they were in.

    Args:
        mixture: As it was drawn.
        rulings: At most one a row.
        report: What the audit says of itself.
        encode: How a relabelled row is written.

    Raises:
        DataError: If a ruling is about another row than the one in its place, or none is left.
    """
    by_place = {ruling.place: ruling for ruling in rulings}
    for place, ruling in by_place.items():
        if place >= len(mixture.train) or row_hash(mixture.train[place].row) != ruling.sha256:
            raise DataError(
                f"an audit must be of the rows that are trained on, and row {place} is another than in its file. Remove "
                "audit.json from the run's folder: the run makes it anew."
            )
    train = [_ruled(example, by_place.get(place), encode) for place, example in enumerate(mixture.train)]
    if not (left := [example for example in train if example is not None]):
        raise DataError("rows must be left to train on, and the audit drops all. Set audit.action to report, and look.")
    return replace(mixture, train=left, audit=report)


def faulted(mixture: Mixture, rulings: Sequence[Ruling]) -> list[Row]:
    """The rows that an audit does something about, each up to the answer at fault and without it.

    Args:
        mixture: As it was drawn.
        rulings: Of its audit.
    """
    acted_on = [ruling for ruling in rulings if ruling.action != "report"]
    return [relabelled(mixture.train[ruling.place].row, ruling.turn, refusal="") for ruling in acted_on]


def relabelled(row: Row, turn: int, refusal: str) -> Row:
    """A row up to one of its learnt answers, with a refusal there; what was said before it stays.

    Args:
        row: A conversation.
        turn: Which of its learnt answers, from 0.
        refusal: What is to be said instead.
    """
    learnt = [i for i, said in enumerate(row.history) if said.role == "assistant" and said.learnt]
    if turn < len(learnt):
        asked = learnt[turn] - 1
        row = row._replace(prompt=row.history[asked].content, history=row.history[:asked])
    return row._replace(answer=refusal, kind="safety")


def written(row: Row, source: str, encode: Encode) -> Example | None:
    """A relabelled row in token ids; None where nothing of its answer has room."""
    (rendered,) = encode([row])
    if rendered.labels.count(IGNORE_INDEX) == len(rendered.labels):
        return None
    return Example(rendered.input_ids, rendered.labels, row, "safety", source, rendered.truncated)


def _ruled(example: Example, ruling: Ruling | None, encode: Encode) -> Example | None:
    if ruling is None or ruling.action == "report":
        return example
    if ruling.action == "weight":
        assert ruling.weight is not None
        return example.weighted(ruling.weight)
    if ruling.action == "relabel":
        assert ruling.refusal is not None
        return written(relabelled(example.row, ruling.turn, ruling.refusal), example.source, encode)
    return None
