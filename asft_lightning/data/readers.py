"""Records of a local file, as they stand there: text stays text, whatever it looks like."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""{column: value} of one row."""


def read_json(path: Path) -> list[Record]:
    """A list of objects, or one object a line."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        return _objects(json.loads(text))
    return _objects([_line(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()])


def read_csv(path: Path) -> list[Record]:
    """Rows under a line of column names; every value is text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        records: list[Record] = []
        for record in reader:
            if None in record or None in record.values():
                raise ValueError(f"line {reader.line_num} has not as many values as there are columns")
            records.append(dict(record))
    return records


def read_parquet(path: Path) -> list[Record]:
    """Rows of a table."""
    from pyarrow import parquet  # slow to import

    records: list[Record] = parquet.read_table(path).to_pylist()
    return records


READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".json": read_json,
    ".jsonl": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""{ending of a file's name: its reader}; a reader raises ``ValueError``, ``OSError`` or ``csv.Error`` on a broken file."""


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _objects(values: list[Any]) -> list[Record]:
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"row {i} must be an object of columns, got {value!r:.40}")
    return values
