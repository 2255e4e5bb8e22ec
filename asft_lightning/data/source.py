"""Source: where rows come from, and which of their columns say what."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asft_lightning.errors import DataError
from asft_lightning.locations import resolve, unreachable

_COLUMN = re.compile(r"\{(\w+)\}")
_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


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
        labels: Where the answer is a column of integers, the text of 0, 1, …
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
        rendered = [Row(self._written(self.prompt, r), self._written(self.answer, r)) for r in records]
        for i, row in enumerate(rendered):
            if not row.prompt:
                raise DataError(f"{self.path}, row {start + i}: a prompt must not be blank ({self.prompt!r}). Mend the row.")
        return rendered

    def _table(self) -> Any:
        from datasets import disable_progress_bars, enable_progress_bars, load_dataset  # slow to import

        path = resolve(self.path)
        kind = _READERS.get(Path(path).suffix.lower())
        if kind is None:
            return _loaded(self.path, lambda: load_dataset(path, self.name, split=self.split, revision=self.revision))
        if not Path(path).is_file():
            raise DataError(f"a data file must exist, and {path} does not. Give the path of a {'/'.join(_READERS)} file.")
        if not Path(path).read_bytes()[:4096].strip():
            raise DataError(f"{path} must hold rows, and is empty. Check how it was written.")
        disable_progress_bars()  # a local file takes no time worth a bar
        try:
            return _loaded(path, lambda: load_dataset(kind, data_files=path, split="train"))
        finally:
            enable_progress_bars()

    def _bounds(self) -> tuple[int, int | None]:
        if self.rows is None:
            return 0, None
        if not (match := re.fullmatch(r"(\d*):(\d*)", self.rows.strip())):
            raise DataError(f"{self.path}: rows must read start:stop, got {self.rows!r}. '0:400' is the first 400.")
        return int(match[1] or 0), int(match[2]) if match[2] else None

    def _written(self, text: str, record: dict[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            column = match[1]
            if column not in record:
                raise DataError(
                    f"{self.path} has no column {column!r}; it has {', '.join(record)}. Write prompt and answer with "
                    "these, e.g. prompt: '{" + next(iter(record), "column") + "}'."
                )
            found = record[column]
            if self.labels is not None and isinstance(found, int) and not isinstance(found, bool):
                return self._label(found)
            return "" if found is None else str(found)

        return _COLUMN.sub(value, text).strip()

    def _label(self, index: int) -> str:
        labels = self.labels or []
        if not 0 <= index < len(labels):
            raise DataError(f"{self.path}: a label must be 0 to {len(labels) - 1}, got {index}. Complete `labels`.")
        return labels[index]


def _loaded(path: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the library raises its own and each file format's errors
        if Path(path).suffix.lower() in _READERS:
            cause = error.__cause__ or error
            raise DataError(f"{path} cannot be read ({cause}). Check that it is what its ending says.") from error
        raise unreachable(path, error) from error
