"""The records of a path: of a file by its ending, or of a data set on the hub."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from asft_lightning.data.readers import READERS, Record
from asft_lightning.errors import DataError
from asft_lightning.weights.locations import resolve, unreachable


def read_records(given: str, name: str | None, split: str, revision: str | None, streaming: bool) -> Iterator[Record]:
    """The records, one after the other.

    Args:
        given: A file, a hub id or its address, or ``sandbox:PART``.
        name: The hub data set's configuration.
        split: Its split.
        revision: Its revision.
        streaming: Whether it is read in one pass.

    Raises:
        DataError: If a file is absent or unreadable.
        ConfigurationError: If a data set is gated, absent or out of reach.
    """
    path = resolve(given)
    kind = Path(path).suffix.lower()
    if kind not in READERS and Path(path).is_file():
        raise DataError(f"a data file must be {'/'.join(READERS)}, got {path}. Convert it.")
    if "://" in path or kind not in READERS:
        what: dict[str, Any] = {"path": path, "name": name, "revision": revision}
        if "://" in path:  # one file at an address, which has no splits
            what = {"path": kind.strip(".").replace("jsonl", "json"), "data_files": {split: path}}
        yield from _from_hub(path, what, split, streaming)
        return
    if not Path(path).is_file():
        raise DataError(f"a data file must exist, and {path} does not. Give the path of a {'/'.join(READERS)} file.")
    yield from reading(path, lambda: READERS[kind](Path(path)))


def reading(path: str, read: Callable[[], Iterable[Record]]) -> Iterator[Record]:
    """What a reader gives.

    Raises:
        DataError: If it fails; names the path.
    """
    try:
        yield from read()
    except (ValueError, OSError, RuntimeError, LookupError, TypeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}). Check that it is what its name says.") from error


def _from_hub(path: str, what: dict[str, Any], split: str, streaming: bool) -> Iterator[Record]:
    from datasets import load_dataset  # slow to import

    try:
        yield from cast(Iterable[Record], load_dataset(**what, split=split, streaming=streaming))
    except Exception as error:  # the library raises its own and each file format's errors
        remedy = f"its rows as a {'/'.join(READERS)} file with the same columns: `file: PATH`"
        raise unreachable(path, error, remedy) from error
