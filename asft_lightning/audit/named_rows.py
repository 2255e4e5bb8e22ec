"""Rows that a user names, to be kept or flagged whatever their scores."""

import json
import re
from pathlib import Path

from asft_lightning.errors import DataError
from asft_lightning.runtime.files import user_path

_HASH = re.compile(r"[0-9a-f]{64}")


def read_named(path: str | None, setting: str) -> frozenset[str]:
    """The ``sha256`` of each row of a file: lines of an ``audit.jsonl``, or a hash alone on a line.

    Args:
        path: The file; None for no rows.
        setting: What names it, for the error.

    Raises:
        DataError: If it cannot be read, or a line is neither.
    """
    if path is None:
        return frozenset()
    try:
        lines = Path(user_path(path)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"audit.{setting} must be a text file of rows, and {path} cannot be read ({error}).") from error
    return frozenset(_hash(line.strip(), f"{path}, line {i}", setting) for i, line in enumerate(lines, 1) if line.strip())


def _hash(line: str, place: str, setting: str) -> str:
    try:
        named = json.loads(line)["sha256"] if line.startswith("{") else line
    except (ValueError, KeyError, RecursionError):
        named = None
    if not isinstance(named, str) or not _HASH.fullmatch(named):
        raise DataError(
            f"audit.{setting} must hold lines of an audit.jsonl, or their sha256, and {place} is {line!r:.60}. Mend it."
        )
    return named
