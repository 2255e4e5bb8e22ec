"""Records of a local file, one after the other, as they stand there: text stays text, whatever it looks like."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from asft_lightning.errors import DataError
from asft_lightning.runtime.plugins import load_plugins

Record = dict[str, Any]
"""{column: value} of one row."""

_TAKEN = {"catalogue", "sandbox", "hf", "http", "https", "file"}
"""Prefixes that mean something already."""
_LONGEST_FIELD = 2**31 - 1
"""Characters: what every platform's csv module can be told."""


def read_json(path: Path) -> Iterator[Record]:
    """A list of objects, or one object a line; only a list has to fit into memory."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == "[":
            yield from _objects(json.load(file))
        else:
            yield from _objects(_line(number, line) for number, line in enumerate(file, start=1) if line.strip())


def read_csv(path: Path) -> Iterator[Record]:
    """Rows under a line of column names; every value is text, however long: Python's own limit is 131072 characters."""
    csv.field_size_limit(max(_LONGEST_FIELD, csv.field_size_limit()))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        names = list(reader.fieldnames or ())
        if len(set(names)) < len(names):
            raise ValueError(f"column names must differ, got {', '.join(names)}")
        for record in reader:
            if None in record or None in record.values():
                raise ValueError(f"line {reader.line_num} has not as many values as there are columns")
            yield dict(record)


def read_parquet(path: Path) -> Iterator[Record]:
    """Rows of a table, a batch at a time."""
    from pyarrow import parquet  # slow to import

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".json": read_json,
    ".jsonl": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""{ending of a file's name: its reader}; a reader raises ``ValueError``, ``OSError`` or ``csv.Error`` on a broken file."""

SourceReader = Callable[[Any], Iterable[Record]]
"""From a :class:`Source`, all of whose settings it may look at, to its records."""
_BY_PREFIX: dict[str, SourceReader] = {}


def register_reader(prefix: str, reader: SourceReader) -> None:
    """Have sources whose path begins with ``PREFIX:`` read by a function of one's own.

    Args:
        prefix: Two or more letters, digits, or any of ``_ . + -``, e.g. ``sql`` for ``sql:SELECT …``.
        reader: Gives the records of a source; raises ``ValueError`` or ``OSError`` where it cannot.

    Raises:
        DataError: If the prefix cannot be, or is taken.
    """
    if not re.fullmatch(r"[\w.+-]{2,}", prefix) or prefix in _TAKEN or _BY_PREFIX.get(prefix, reader) is not reader:
        raise DataError(
            f"a reader's prefix must be a short word that no other reader has, nor any of {', '.join(sorted(_TAKEN))}, got "
            f"{prefix!r}. Take another."
        )
    _BY_PREFIX[prefix] = reader


def reader_of(path: str) -> SourceReader | None:
    """The reader that was registered for a path's prefix, by code or by a plug-in; None for a file or a data set."""
    prefix, colon, rest = path.partition(":")
    if not colon or rest.startswith("//") or prefix in _TAKEN or not re.fullmatch(r"[\w.+-]{2,}", prefix):
        return None
    if prefix not in _BY_PREFIX:
        load_plugins()
    return _BY_PREFIX.get(prefix)


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from error


def _objects(values: Iterable[Any]) -> Iterator[Record]:
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"row {i} must be an object of columns, got {value!r:.40}")
        yield value
