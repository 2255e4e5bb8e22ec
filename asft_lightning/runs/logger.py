"""RunLogger: one metrics.csv a run folder, that a resumed run goes on with."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from asft_lightning.runtime.files import user_path


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
    def experiment(self) -> Any:
        """The writer; Lightning hands ranks other than 0 one that writes nothing."""
        file = Path(self.log_dir) / "metrics.csv"
        elsewhere = getattr(rank_zero_only, "rank", 0)  # two ranks must not put one file aside
        if elsewhere or self._experiment is not None or not self.resumed or not file.is_file():
            return super().experiment
        aside = file.with_name("metrics.csv.kept")
        file.rename(aside)
        try:
            writer = super().experiment
        finally:
            aside.replace(file)
        with file.open(newline="") as kept:
            writer.metrics_keys = next(csv.reader(kept), [])
        return writer
