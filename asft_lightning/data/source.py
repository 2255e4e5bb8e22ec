"""Source: where rows come from, and which of their columns say what."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from asft_lightning.data.readers import READERS, Record
from asft_lightning.errors import DataError
from asft_lightning.locations import resolve, unreachable

_COLUMN = re.compile(r"\{(\w+)\}")


class Row(NamedTuple):
    """A prompt and its answer, as text."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Source:
    r"""Rows of one file or hub data set.

    ``prompt`` and ``answer`` are written with the columns' names in braces; only the names are replaced, nothing in a
    row is interpreted.

    Args:
        path: A json, jsonl, csv or parquet file, a hub id, or ``sandbox:PART``.
        prompt: What the user says, e.g. ``"{instruction}\n\n{input}"``; blank ends are stripped.
        answer: What the assistant should say, e.g. ``"{output}"``.
        labels: Where the answer's columns hold integers, the text of 0, 1, …
        rows: ``start:stop`` of the rows to use, e.g. ``"0:400"``, so that one file can serve two purposes.
        name: The hub data set's configuration.
        split: The hub data set's split.
        revision: The hub data set's revision.
    """

    path: str
    prompt: str = "{instruction}"
    answer: str = "{output}"
    labels: list[str] | None = None
    rows: str | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None

    def load(self) -> list[Row]:
        """All rows, rendered.

        Raises:
            DataError: If the file is absent, empty or unreadable, or has not the columns asked for.
            ConfigurationError: If the hub data set is gated, absent or out of reach.
        """
        table = self._table()
        start, stop = self._bounds()
        records = [table[i] for i in range(*slice(start, stop).indices(len(table)))]
        if not records:
            raise DataError(f"{self.path} must hold rows, and has none in rows={self.rows or 'all'}. Check file and range.")
        rendered = [Row(self._written(self.prompt, r), self._written(self.answer, r, self.labels)) for r in records]
        for i, row in enumerate(rendered):
            if not row.prompt:
                raise DataError(f"{self.path}, row {start + i}: a prompt must not be blank ({self.prompt!r}). Mend the row.")
        return rendered

    def _table(self) -> Sequence[Record]:
        path = resolve(self.path)
        read = READERS.get(Path(path).suffix.lower())
        if read is None:
            return self._from_hub(path)
        if not Path(path).is_file():
            raise DataError(f"a data file must exist, and {path} does not. Give the path of a {'/'.join(READERS)} file.")
        try:
            return read(Path(path))
        except (ValueError, OSError, csv.Error) as error:
            raise DataError(f"{path} cannot be read ({error}). Check that it is what its ending says.") from error

    def _from_hub(self, path: str) -> Sequence[Record]:
        from datasets import load_dataset  # slow to import

        try:
            return cast(Sequence[Record], load_dataset(path, self.name, split=self.split, revision=self.revision))
        except Exception as error:  # the library raises its own and each file format's errors
            raise unreachable(self.path, error) from error

    def _bounds(self) -> tuple[int, int | None]:
        if self.rows is None:
            return 0, None
        if not (match := re.fullmatch(r"(\d*):(\d*)", self.rows.strip())):
            raise DataError(f"{self.path}: rows must read start:stop, got {self.rows!r}. '0:400' is the first 400.")
        return int(match[1] or 0), int(match[2]) if match[2] else None

    def _written(self, text: str, record: Record, labels: Sequence[str] | None = None) -> str:
        def value(match: re.Match[str]) -> str:
            column = match[1]
            if column not in record:
                raise DataError(
                    f"{self.path} has no column {column!r}; it has {', '.join(record)}. Write prompt and answer with "
                    "these, e.g. prompt: '{" + next(iter(record), "column") + "}'."
                )
            found = "" if record[column] is None else str(record[column])
            return found if labels is None or not re.fullmatch(r"-?\d+", found) else self._label(int(found), labels)

        return _COLUMN.sub(value, text).strip()

    def _label(self, index: int, labels: Sequence[str]) -> str:
        if not 0 <= index < len(labels):
            raise DataError(f"{self.path}: a label must be 0 to {len(labels) - 1}, got {index}. Complete `labels`.")
        return labels[index]
