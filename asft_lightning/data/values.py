"""What a value of a record means, however its file writes it."""

import re
from decimal import Decimal
from typing import Any

from asft_lightning.data.readers import Record
from asft_lightning.errors import DataError

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
"""As a number is written; 007 is a text that tells it from 7."""

_NOTHING = ("", "none", "null", "nan", "[]", "{}")

_TRUTHS = {"true": Decimal(1), "yes": Decimal(1), "false": Decimal(0), "no": Decimal(0)}


def record_value(record: Record, column: str, remedy: str = "Name one of those") -> Any:
    """What a record has in a column.

    Raises:
        DataError: If it has no such column.
    """
    if column not in record:
        raise DataError(f"there is no column {column!r} among {', '.join(map(str, record)) or 'none'}. {remedy}")
    return record[column]


def meaning(value: Any) -> Decimal | str:
    """What a value is compared by: true, 1, 1.0 and "yes" are one and the same, and so is a text in any case.

    >>> meaning(False) == meaning("0.0") == meaning("No"), meaning("A") == meaning("a"), meaning("007") == meaning(7)
    (True, True, False)
    """
    text = str(value).strip().casefold()
    return _TRUTHS[text] if text in _TRUTHS else Decimal(text) if _NUMBER.fullmatch(text) else text


def is_nothing(value: Any) -> bool:
    """Whether a value only fills its place, as null does, or NaN and "None", which some writers make of null."""
    return str(value).strip().casefold() in _NOTHING


def truth(value: Any) -> bool | None:
    """Whether a value says yes; nothing is no. None where it says neither.

    >>> truth(1.0), truth("No"), truth(None), truth("perhaps")
    (True, False, False, None)
    """
    means = Decimal(0) if is_nothing(value) else meaning(value)
    return means == 1 if means in (0, 1) else None


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
