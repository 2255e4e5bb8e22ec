"""The bar of a run: its figures on one line, also of 80 columns, in digits that count; loggers are told them whole."""

import csv
import io
import re

import pytest
import torch
from kit import tiny
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from asft_lightning import Answers, AsFT
from asft_lightning.runtime.progress_bar import OneLineBar


class Watched(OneLineBar):
    """Keeps the lines that it last showed of a running epoch."""

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        console = Console(file=io.StringIO(), color_system=None)
        console.print(self.progress.get_renderable())
        self.lines = console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (80, r" +━+ 4/4 \d\d:\d\d loss \S+ pen \S+ lr 3e-05 tok/s \d+ *"),
        (120, r" +━+ 4/4 \d\d:\d\d loss \S+ pen \S+ lr 3e-05 tok/s \d+ answer_divergence \S+ *"),
        (50, r" +━+ 4/4 \d\d:\d\d loss \S+ *"),
    ],
)
def test_figures_take_one_line(pretrained, tmp_path, monkeypatch, width, figures):
    """Those that are left are whole, and the bar has room beside them; a logger is told all of them."""
    monkeypatch.setenv("COLUMNS", str(width))
    bar = Watched()
    settings = {"callbacks": [bar], "enable_progress_bar": True, "logger": CSVLogger(tmp_path / "csv", "", "")}
    module = tiny.fine_tuner(
        AsFT, pretrained, optimizer=lambda trained: torch.optim.AdamW(trained, lr=3e-5),
        anchors=[], answers=Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=2),
    )  # fmt: skip
    trainer = tiny.tiny_trainer(tmp_path, log_every_n_steps=1, **settings)
    trainer.fit(module, tiny.tiny_data(pretrained, tmp_path, batch_size=4))

    (line,) = bar.lines
    assert len(line) <= width and re.fullmatch("Epoch 0/0" + figures, line), line
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        (*_, last) = [row for row in csv.DictReader(file) if row["train/lr"]]
    assert float(last["train/lr"]) == pytest.approx(3e-5)
    assert last["train/tokens_per_second"] and last["train/penalty_ratio"] and last["train/answer_divergence"]
