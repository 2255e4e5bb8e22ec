"""AlignmentLog: the figures of every layer's update over training, as one table."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.moment import Moment
from asft_lightning.runtime.files import append, write_atomically


@dataclass(frozen=True)
class LayerFigures:
    """One layer's update B·A against one anchor; of the bare product, without LoRA's α/r.

    Args:
        moment: When it was measured.
        step: Optimizer steps taken.
        module: The layer.
        anchor: The anchor's class.
        norm: ‖BA‖_F.
        aligned: ‖C·BA‖² / ‖BA‖², 0 for an update of 0.
        orthogonal: ‖(I − C)·BA‖² / ‖BA‖², likewise; with a C that is no projector the two need not sum to 1.
        penalty: The anchor's penalty, with its weight.
    """

    moment: Moment
    step: int
    module: str
    anchor: str
    norm: float
    aligned: float
    orthogonal: float
    penalty: float


HEADINGS = ["when", *(field.name for field in fields(LayerFigures)[1:])]


class AlignmentLog:
    """A CSV file with a line for each layer, anchor and measurement; a resumed run goes on with it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int) -> None:
        """Start a new file; or keep what an interrupted run measured up to ``step``."""
        kept = [row for row in self.read() if step and row.step <= step and row.moment != Moment.AFTER]
        write_atomically(self.path, _text([HEADINGS, *map(_cells, kept)]))

    def add(self, rows: Iterable[LayerFigures]) -> None:
        """Append a measurement, whole or not at all."""
        append(self.path, _text(map(_cells, rows)))

    def read(self) -> list[LayerFigures]:
        """All that was measured; nothing where there is no file, and not the half of a line that an interruption left.

        Raises:
            ConfigurationError: If it holds something else.
        """
        if not self.path.is_file():
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            records = csv.reader(line for line in lines[1:] if line.endswith("\n"))
            return [
                LayerFigures(Moment(moment), int(step), module, anchor, *map(float, figures))
                for moment, step, module, anchor, *figures in records
            ]
        except (ValueError, TypeError, csv.Error) as error:
            raise ConfigurationError(
                f"{self.path} must hold what AlignmentMonitor has measured, and does not ({error!s:.80}). Remove it."
            ) from error


def _cells(row: LayerFigures) -> list[object]:
    return [getattr(row, field.name) for field in fields(LayerFigures)]


def _text(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
