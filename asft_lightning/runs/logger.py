"""RunLogger: one metrics.csv a run folder, that a resumed run goes on with."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import append, drop_half_line, user_path, write_atomically

_MOMENT = {"step", "epoch"}
"""Columns that say when; all others are figures."""


class RunLogger(CSVLogger):
    """Lightning's CSVLogger without version numbers, which keeps what a resumed run logged before.

    Lightning's own deletes the ``metrics.csv`` that it finds. Of a step that is taken again only the new row stays. Each row
    is written at once, so that a killed run has all that it logged.

    Args:
        folder: Where ``metrics.csv`` lies.
        resumed: Whether to go on with the one that is there, rather than begin a new one.
    """

    def __init__(self, folder: str | Path, resumed: bool = False) -> None:
        super().__init__(user_path(folder), name="", version="", flush_logs_every_n_steps=1)
        self.resumed = resumed

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; Lightning hands ranks other than 0 one that writes nothing."""
        if self._experiment is None:
            self._experiment = MetricsWriter(self.log_dir, self.resumed)
        return self._experiment


class MetricsWriter(ExperimentWriter):
    """Lightning's, but for how the file is written: all that stands in it are whole rows, whenever the run is ended.

    Args:
        folder: Where ``metrics.csv`` lies.
        resumed: Whether to go on with the one that is there, rather than delete it.
    """

    def __init__(self, folder: str, resumed: bool) -> None:
        self._resumed = resumed
        super().__init__(folder)
        self._file = Path(self.metrics_file_path)
        drop_half_line(self._file)
        self._steps_before: set[str | None] = set()
        if self._file.is_file():
            self.metrics_keys, rows = self._read()
            self._steps_before = {row.get("step") for row in rows}

    def _check_log_dir_exists(self) -> None:
        """Lightning's hook, which deletes."""
        if not self._resumed:
            super()._check_log_dir_exists()

    def save(self) -> None:
        """Add the rows since the last time; new columns, and steps that are taken again, make the file anew.

        Raises:
            StorageError: If that cannot be; the file is then as it was.
        """
        if not self.metrics:
            return
        columns = sorted(set(self.metrics_keys).union(*self.metrics))
        new = {(str(row["step"]), name) for row in self.metrics for name in row.keys() - _MOMENT}
        again = {(step, name) for step, name in new if step in self._steps_before}
        if columns == self.metrics_keys and self._file.is_file() and not again:
            append(self._file, _text(columns, self.metrics))
        else:
            before = self._read()[1] if self._file.is_file() else []
            kept = [row for row in before if again.isdisjoint((row.get("step"), name) for name in row if row[name])]
            headings = {column: column for column in columns}
            write_atomically(self._file, _text(columns, [headings, *kept, *self.metrics]))
        self.metrics_keys, self.metrics = columns, []

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The columns and rows."""
        try:
            reader = csv.DictReader(io.StringIO(self._file.read_text(encoding="utf-8")))
            rows = list(reader)
        except (ValueError, csv.Error) as error:
            raise ConfigurationError(f"{self._file} is no metrics.csv ({error!s:.80}). Move it away.") from error
        return list(reader.fieldnames or []), rows


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, extrasaction="ignore").writerows(rows)  # an earlier version may have glued rows together
    return text.getvalue()
