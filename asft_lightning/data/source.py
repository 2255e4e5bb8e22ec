"""Source: where rows come from, and which of their columns say what."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self, cast

from asft_lightning.chat.rows import Row, require_text
from asft_lightning.data.catalogue import CATALOGUE_PREFIX, Entry, entry_of
from asft_lightning.data.columns import COMPLETIONS, INSTRUCTIONS, PROMPTS, Columns
from asft_lightning.data.conversations import conversation
from asft_lightning.data.given_rows import keep_rows
from asft_lightning.data.readers import Record, reader_of
from asft_lightning.data.records import read_records, reading
from asft_lightning.data.values import meaning, record_value, truth
from asft_lightning.errors import DataError
from asft_lightning.runtime.plain_data import PlainData

_PLAIN_FILE = Entry("", (INSTRUCTIONS, COMPLETIONS, PROMPTS), "not stated", "rows of your own")
_DIGITS = 18
"""Of a row's number: no file has more rows."""


@dataclass(frozen=True)
class Source:
    r"""Rows of one file or data set.

    The columns are those of the catalogue's entry, or of a chat file (``messages``: each turn of the assistant is learnt but
    those of ``weight: 0``), or of an instruction file (``instruction``, ``input``, ``output``; ``system`` and ``history``),
    or ``prompt`` and ``completion``, or ``prompt`` alone. Others are told by ``prompt`` and ``answer``, with the columns'
    names in braces, ``{{`` and ``}}`` for braces that are text; only those are replaced, nothing in a row is interpreted.

    Args:
        path: A json, jsonl, csv or parquet file, a hub id or its address (``hf://…``), ``catalogue:NAME`` (see
            :data:`CATALOGUE`), ``sandbox:PART``, or ``PREFIX:…`` for a reader of one's own (docs/plug-ins.md).
        prompt: What the user says, e.g. ``"{instruction}\n\n{input}"``; blank ends are stripped.
        answer: What the assistant should say, e.g. ``"{output}"``; ``""`` for prompts that are only scored. Its indentation
            is kept.
        labels: Where the answer's columns hold integers, the text of 0, 1, …
        category: The column of the kinds of harm that a prompt is about, for scores by category.
        flag: The column that says which rows of a ready-mixed file are harmful (true or false, 1 or 0, yes or no).
        where: ``{column: value}`` that a row must have, e.g. ``{is_safe: false}``, which 0, 0.0 and "no" are as well; others
            are passed over and counted.
        rows: ``start:stop`` of the rows to use, e.g. ``"0:400"``, so that one file can serve two purposes.
        unique: Pass over prompts that came before; null for what the catalogue says, or not.
        weight: This source's share among several of one kind, e.g. 2 for twice as many rows as from one of weight 1.
        streaming: Read in one pass and keep only the rows that are drawn: for more than fits into memory.
        file: A local copy of what ``path`` names, with the same columns, for a machine without a network.
        name: The hub data set's configuration.
        split: The hub data set's split.
        revision: The hub data set's revision.
        system: The system prompt, written as ``prompt`` is, where that is told: ``template.system`` gives way to it.

    Raises:
        DataError: If a setting cannot be.
    """

    path: str
    prompt: str | None = None
    answer: str | None = None
    labels: list[str] | None = None
    category: str | None = None
    flag: str | None = None
    where: PlainData | None = None
    rows: str | None = None
    unique: bool | None = None
    weight: float = 1.0
    streaming: bool = False
    file: str | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be before anything is read, and a password: it would stand in every file of a run."""
        if any(re.match(r"[^/]*://[^/?#]*@", address) for address in (self.path, self.file or "")):
            raise DataError(
                "a data file's address must be without user and password, got one with @, not shown since it may hold a "
                "password. Download the file, and give it as `file: PATH`."
            )
        if not 0 < self.weight < float("inf"):
            raise DataError(f"{self.path}: weight must be a positive number, got {self.weight}. 1 is usual.")
        if self.rows is not None and not re.fullmatch(r"\d*:\d*", self.rows.strip()):
            raise DataError(f"{self.path}: rows must read start:stop, got {self.rows!r}. '0:400' is the first 400.")
        if self.rows is not None and any(len(end) > _DIGITS for end in self.rows.strip().split(":")):
            raise DataError(f"{self.path}: rows must name rows of a file, got {self.rows!r:.60}. '0:400' is the first 400.")
        try:
            Columns(self.prompt or "", self.answer or "", system=self.system or "")
        except DataError as error:
            raise DataError(f"{self.path}: {error}.") from error
        if self.system is not None and self.prompt is None:
            raise DataError(f"{self.path}: system must stand beside prompt, got none. Write both, with columns in braces.")

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], **settings: Any) -> Self:
        """A source of rows that a program has: a list of mappings, a ``datasets.Dataset`` or a ``pandas.DataFrame``.

        They are kept as a file in the cache, named by its content.

        Args:
            rows: A row a mapping of columns, as in a file.
            settings: The other arguments, e.g. ``prompt`` and ``answer``.

        Raises:
            DataError: If there are none, or one is no mapping of what JSON can say; or if a setting cannot be.
            StorageError: If they cannot be kept.
        """
        return cls(str(keep_rows(rows)), **settings)

    @property
    def entry(self) -> Entry:
        """The catalogue's entry, or what stands for one.

        Raises:
            DataError: If the catalogue has no such name.
        """
        if not self.path.startswith(CATALOGUE_PREFIX):
            return _PLAIN_FILE
        return entry_of(self.path.removeprefix(CATALOGUE_PREFIX))

    def load(self) -> list[Row]:
        """All rows, rendered.

        Raises:
            DataError: If the file is absent, empty or unreadable, or has not the columns asked for.
            ConfigurationError: If the data set is gated, absent or out of reach.
        """
        return list(self.iterate())

    def iterate(self, counts: Counter[str] | None = None) -> Iterator[Row]:
        """The rows of :meth:`load`, one after the other.

        Args:
            counts: Gets how many records were ``read``, and passed over by ``where`` and as ``repeated``, and the counts of
                :func:`~asft_lightning.data.conversations.conversation`.
        """
        counts = Counter() if counts is None else counts
        columns: Columns | None = None
        seen: set[tuple[object, ...]] = set()
        start, _, stop = (self.rows or ":").strip().partition(":")
        first, last = int(start or 0), int(stop) if stop else None
        given = 0
        for i, record in enumerate(islice(self.records(), first, last), start=first):
            counts["read"] += 1
            try:
                columns = columns or self._columns(record)
                row = self._row(record, columns, counts)
            except DataError as error:
                raise DataError(f"{self.file or self.path}, row {i}: {error}.") from error
            if row is None:
                counts["where"] += 1
            elif self._only_once and (row.prompt, row.history) in seen:
                counts["repeated"] += 1
            else:
                given += 1
                if self._only_once:
                    seen.add((row.prompt, row.history))
                yield row
        if not given:
            chosen = f"rows={self.rows or 'all'}" + (f" where {self._where}" if self._where else "")
            raise DataError(f"{self.file or self.path} must hold rows, and has none in {chosen}. Check file and range.")

    @property
    def _only_once(self) -> bool:
        return self.entry.unique if self.unique is None else self.unique

    @property
    def _where(self) -> dict[str, Any]:
        return dict(self.entry.where) if self.where is None else self.where

    def _columns(self, first: Record) -> Columns:
        """What makes a row, told by the settings, and where they are silent by the first way that fits the first record."""
        told: dict[str, Any] = {"prompt": self.prompt, "answer": self.answer, "system": self.system}
        told |= {"labels": self.labels, "category": self.category}
        settings = {name: value for name, value in told.items() if value is not None}
        if self.prompt is not None:  # what is said is told, and nothing else is read into the columns
            settings["with_history"] = False
        ways = [replace(way, **settings) for way in self.entry.columns]
        return next((way for way in ways if way.fit(first)), ways[0])

    def _row(self, record: Record, columns: Columns, counts: Counter[str]) -> Row | None:
        """The record as a row; None where it is not asked for."""
        if any(meaning(record_value(record, column)) != meaning(value) for column, value in self._where.items()):
            return None
        talk = conversation(record, self.category, counts) if self.prompt is None else None
        if talk is not None and (self.answer is not None or self.labels is not None):
            raise DataError("answer and labels are for columns, and these rows are conversations. Leave them out")
        row = talk or columns.row(record, counts)
        if not row.prompt:
            raise DataError("a prompt must not be blank. Mend or remove the row")
        require_text(row.asked() + row.answer)
        return row if self.flag is None else row._replace(kind="harmful" if self._flagged(record) else "benign")

    def _flagged(self, record: Record) -> bool:
        value = record_value(record, cast(str, self.flag))
        if (is_harmful := truth(value)) is None:
            raise DataError(f"flag {self.flag!r} must be true or false, 1 or 0, yes or no, got {value!r:.60}")
        return is_harmful

    def records(self) -> Iterator[Record]:
        """Hook: what is read, a mapping of columns a row, before any of it is a row.

        Raises:
            DataError: If it cannot be read.
        """
        given = self.file or self.entry.path or self.path
        if (reader := reader_of(given)) is not None:
            return reading(given, lambda: reader(self))
        name = self.name or self.entry.name
        return read_records(given, name=name, split=self.split, revision=self.revision, streaming=self.streaming)
