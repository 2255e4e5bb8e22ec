"""Rows of a Python program, kept as a file: every rank, worker and later run then reads the same."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asft_lightning.errors import DataError
from asft_lightning.runtime.files import cache_folder, write_atomically


def keep_rows(rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows, in the cache, to a JSONL file that is named by its content.

    Args:
        rows: A row a mapping of columns: a list, a ``datasets.Dataset``, or a ``pandas.DataFrame``, whose NaN is nothing.

    Raises:
        DataError: If there are none, or one is no mapping of what JSON can say.
        StorageError: If the file cannot be written.
    """
    is_frame = hasattr(rows, "iterrows")  # which, iterated, gives its columns' names
    records = rows.to_dict("records") if is_frame else rows  # type: ignore[attr-defined]
    text = "".join(_line(place, record) for place, record in enumerate(records))
    if not text:
        raise DataError("rows must hold one row at least, got none.")
    path = cache_folder() / "rows" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.jsonl"
    if not path.is_file():
        write_atomically(path, text)
    return path


def _line(place: int, record: Mapping[str, Any]) -> str:
    if not isinstance(record, Mapping):
        raise DataError(f"row {place} must be a mapping of columns, e.g. {{'instruction': …}}, got {type(record).__name__}.")
    plain = {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}
    try:
        return json.dumps(plain, ensure_ascii=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"row {place} must hold texts, numbers, lists and mappings of those alone ({error}). Convert what is neither."
        ) from error
