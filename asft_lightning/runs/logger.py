"""RunLogger: one metrics.csv a run folder, that a resumed run goes on with."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from asft_lightning.runtime.files import append, drop_half_line, user_path, write_atomically


class RunLogger(CSVLogger):
    """Lightning's CSVLogger without version numbers, which keeps what a resumed run logged before.

    Lightning's own deletes the ``metrics.csv`` that it finds. Steps that a resumed run takes again stand there twice; the
    later row counts.

    Args:
        folder: Where ``metrics.csv`` lies.
        resumed: Whether to go on with the one that is there, rather than begin a new one.
    """

    def __init__(self, folder: str | Path, resumed: bool = False) -> None:
        super().__init__(user_path(folder), name="", version="")
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
        if self._file.is_file():
            self.metrics_keys = self._read()[0]

    def _check_log_dir_exists(self) -> None:
        """Lightning's hook, which deletes."""
        if not self._resumed:
            super()._check_log_dir_exists()

    def save(self) -> None:
        """Add the rows since the last time; new columns make the file anew.

        Raises:
            StorageError: If that cannot be; the file is then as it was.
        """
        if not self.metrics:
            return
        columns = sorted(set(self.metrics_keys).union(*self.metrics))
        if columns == self.metrics_keys and self._file.is_file():
            append(self._file, _text(columns, self.metrics))
        else:
            before = self._read()[1] if self._file.is_file() else []
            headings = {column: column for column in columns}
            write_atomically(self._file, _text(columns, [headings, *before, *self.metrics]))
        self.metrics_keys, self.metrics = columns, []

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The columns and rows."""
        reader = csv.DictReader(io.StringIO(self._file.read_text(encoding="utf-8")))
        rows = list(reader)
        return list(reader.fieldnames or []), rows


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, extrasaction="ignore").writerows(rows)  # an earlier version may have glued rows together
    return text.getvalue()
