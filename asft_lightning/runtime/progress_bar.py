"""OneLineBar: Lightning's progress bar with a run's figures on one line, also on a terminal of 80 columns."""

from collections.abc import Generator, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomBarColumn, MetricsTextColumn
from rich.progress import ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

_SHORT: Mapping[str, str] = {
    "train/task_loss": "loss",
    "train/penalty_ratio": "pen",
    "train/lr": "lr",
    "train/tokens_per_second": "tok/s",
    "val/task_loss": "val",
}
"""What figures are called in a line, from the left; others follow by the last part of their names."""
_BESIDE = 32
"""Columns that are kept for the rest: the epoch, the bar, its steps and the time."""


class OneLineBar(RichProgressBar):
    """Lightning's, with short names and three significant digits; the bar itself takes what the figures leave of the line.

    Figures that the line has no room for are left out. Loggers are told all of them under their whole names, as they are.
    """

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The figures by their short names."""
        return short_names(super().get_metrics(trainer, pl_module))

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """What stands before the figures: the epoch, the bar, its steps, and the time that is left of it."""
        assert self._console is not None
        theme, steps = self.theme, BatchesProcessedColumn(self.theme.batch_progress)
        steps._table_column = _whole()
        self._metric_component = _Figures(self._console.width - _BESIDE, trainer, theme.metrics, " ", "")
        return [
            TextColumn("[progress.description]{task.description}", table_column=_whole()),
            CustomBarColumn(None, complete_style=theme.progress_bar, finished_style=theme.progress_bar_finished),
            steps,
            TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=_whole()),
        ]


class _Figures(MetricsTextColumn):
    """The figures that there is room for, in so many characters."""

    def __init__(self, room: int, *settings: Any) -> None:
        super().__init__(*settings)
        self._room = room

    def get_table_column(self) -> Column:
        return _whole()

    def _generate_metrics_texts(self) -> Generator[str, None, None]:
        room = self._room
        for name, figure in self._metrics.items():
            text = f"{name} {short(figure) if isinstance(figure, float | int) else figure}"
            room -= len(text) + 1
            if room >= 0:
                yield text


def short_names(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A run's figures by what they are called in a line, those that everyone looks for first.

    >>> short_names({"v_num": "", "train/lr": 1e-3, "train/drift": 0.5, "train/task_loss": 2.0})
    {'loss': 2.0, 'lr': 0.001, 'drift': 0.5}
    """
    left = {name: figure for name, figure in figures.items() if name != "v_num"}  # a run's folder has no version number
    known = {short: left.pop(name) for name, short in _SHORT.items() if name in left}
    return known | {name.rpartition("/")[2]: figure for name, figure in left.items()}


def _whole() -> Column:
    """Of one line, and not made narrower for the bar's sake."""
    return Column(no_wrap=True, overflow="ellipsis")


def short(figure: float) -> str:
    """Three digits that count, and no power of ten where the digits are fewer.

    >>> short(0.123456), short(3e-5), short(1234.5), short(0.00123)
    ('0.123', '3e-05', '1234', '0.00123')
    """
    return f"{figure:.0f}" if 1000 <= abs(figure) < 1e6 else f"{figure:.3g}"
