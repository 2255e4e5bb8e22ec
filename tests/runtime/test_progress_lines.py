"""Lines in place of a bar: at the first step, now and then, and at the last one; few of them, however long a run is."""

import re

import pytest
from kit import tiny
from kit.commands import start, write_config
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from asft_lightning import AsFT, LoRAFineTuner
from asft_lightning.runtime import progress_lines
from asft_lightning.runtime.progress_lines import ProgressLines

STEP = re.compile(r"training: step (\d+)(?: of (\d+))?(.*)")


def lines_of(text):
    """(step, of how many, what else is said) of each line that is one of ours."""
    return [STEP.fullmatch(line).groups() for line in text.splitlines() if line.startswith("training: ")]


class Clock:
    """A time that passes by so many seconds a batch."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(progress_lines.time, "monotonic", self.read)

    def read(self):
        self.now += self.seconds
        return self.now


class Nothing(LightningModule):
    """Trains nothing, so that thousands of its steps take no time."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_completed()

    def configure_optimizers(self):
        return None


class Rows(Dataset):
    """So many rows, with nothing in them."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        return place


def trained(tmp_path, steps, **settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(**quiet | {"callbacks": [ProgressLines()], "default_root_dir": tmp_path} | settings)
    trainer.fit(Nothing(), DataLoader(Rows(steps)))


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [
        (1.0, [0, 20]),  # too short for a line between
        (5.0, [0, 6, 12, 18, 20]),  # half a minute, and a tenth of the steps is less
        (60.0, [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),  # soon, and then a tenth
    ],
)
def test_when_a_line_is_due(tmp_path, monkeypatch, capsys, seconds, steps):
    Clock(monkeypatch, seconds)
    trained(tmp_path, 20, max_epochs=1)
    assert [(int(step), total) for step, total, _ in lines_of(capsys.readouterr().err)] == [(s, "20") for s in steps]


def test_a_week_takes_few_lines_and_an_hour_is_not_silent(tmp_path, monkeypatch, capsys):
    week = 7 * 24 * 60
    Clock(monkeypatch, 60.0)
    trained(tmp_path, week, max_epochs=1)
    said = [int(step) for step, *_ in lines_of(capsys.readouterr().err)]
    assert len(said) < 25 and sum(step <= 60 for step in said) >= 5


def test_a_run_without_an_end_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    Clock(monkeypatch, 30.0)
    trained(tmp_path, 4, max_epochs=-1, max_time={"seconds": 0.2})
    first, *_, last = lines_of(capsys.readouterr().err)
    assert first == ("0", None, "") and last[1] is None and "left" not in last[2]


def test_time_that_is_left_is_of_the_steps_that_are(tmp_path, monkeypatch, capsys):
    Clock(monkeypatch, 60.0)
    trained(tmp_path, 10, max_epochs=2)
    rest = {int(step): text for step, _, text in lines_of(capsys.readouterr().err)}
    assert rest[4].endswith(", 0:04:00 so far, about 0:16:00 left")
    assert rest[20].endswith(", 0:20:00 so far")


@pytest.mark.parametrize(("method", "names"), [(AsFT, ["loss", "pen"]), (LoRAFineTuner, ["loss"])])
def test_figures(pretrained, tmp_path, capsys, method, names):
    settings = {"callbacks": [ProgressLines()], "enable_progress_bar": True, "log_every_n_steps": 1, "max_epochs": 2}
    trainer = tiny.tiny_trainer(tmp_path, accumulate_grad_batches=3, **settings)
    trainer.fit(tiny.fine_tuner(method, pretrained), tiny.tiny_data(pretrained, tmp_path, batch_size=4))
    first, last = lines_of(capsys.readouterr().err)
    assert first == ("0", "4", "") and last[:2] == ("4", "4")
    *figures, taken = last[2].removeprefix(", ").split(", ")
    assert [figure.split()[0] for figure in figures] == [*names, "lr", "tok/s"] and taken.endswith("so far")


def test_ranks_but_the_first_are_silent(tmp_path, capsys):
    lines = ProgressLines()
    lines.disable()
    trained(tmp_path, 2, max_epochs=1, callbacks=[lines])
    assert not lines_of(capsys.readouterr().err)


@pytest.mark.slow
def test_a_run_into_a_file_says_it(tmp_path):
    write_config(tmp_path, steps=3)
    said, _ = start(tmp_path, "--trainer.enable_progress_bar=true").communicate(timeout=200)
    first, last = lines_of(said)
    assert first == ("0", "3", "") and last[:2] == ("3", "3") and ", loss " in last[2] and ", pen " in last[2]
    assert "Epoch" not in said and "\x1b" not in said
