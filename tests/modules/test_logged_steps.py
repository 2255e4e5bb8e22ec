"""What every run's steps are logged with: the rate that falls, the gradient's norm, tokens without padding and scoring."""

import csv

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from asft_lightning import AsFT, FullFineTuner, LoRAFineTuner
from asft_lightning.modules import pace
from asft_lightning.modules.ready_batch import TOKENS, ready


class Norms(Callback):
    """An independent reading of the gradient, at every step."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [p.grad.double().flatten() for p in pl_module.parameters() if p.grad is not None]
        self.found.append(float(torch.cat(gradients).norm()))


def logged(folder, name):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT, FullFineTuner])
def test_rate_norm_and_pace(pretrained, tmp_path, kind):
    """Two micro-batches a step; every second of six steps logs, and the norm is that before clipping."""
    norms = Norms()
    settings = {"callbacks": [norms], "logger": CSVLogger(tmp_path, "", ""), "log_every_n_steps": 2, "max_steps": 6}
    trainer = tiny_trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=1e-3, max_epochs=-1, **settings)
    trainer.fit(fine_tuner(kind, pretrained, lr_scheduler="linear"), tiny_data(pretrained, tmp_path, batch_size=4))
    rates = logged(tmp_path, "train/lr")
    assert len(rates) == 3 and rates == pytest.approx([rates[0] * (1 - i * 2 / 5) for i in range(3)])
    assert logged(tmp_path, "train/gradient_norm") == pytest.approx(norms.found[1::2], rel=1e-5)
    assert len(logged(tmp_path, "train/tokens_per_second")) == 3
    assert {"train/lr", "train/tokens_per_second", "train/task_loss"} <= trainer.progress_bar_metrics.keys()
    assert ("train/penalty_ratio" in trainer.progress_bar_metrics) == (kind is AsFT)


def test_tokens_are_counted_without_padding(pretrained, tmp_path):
    data = tiny_data(pretrained, tmp_path, batch_size=8)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert ready(batch)[TOKENS] == int(batch["attention_mask"].sum()) < batch["input_ids"].numel()


def test_what_callbacks_do_between_steps_takes_no_time_of_the_pace(monkeypatch):
    """Two steps of two seconds with a scoring of 100 between them."""
    clock = iter([0.0, 2.0, 102.0, 104.0])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    found = pace.Pace()
    for tokens in (30, 50):
        found.begin({"input_ids": torch.zeros(1, 99), TOKENS: tokens})
        found.mark()
    assert found.rate() == 20.0


def test_losses_of_every_step_are_shown(pretrained, tmp_path):
    """Over two epochs, logged or not: what a callback and the bar see is the step's own loss, and the CSV every third."""

    class Losses(Callback):
        def __init__(self):
            self.own, self.shown, self.on_bar = [], [], []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.own.append(float(outputs["loss"]))
            self.shown.append(float(trainer.callback_metrics["train/task_loss"]))
            self.on_bar.append(float(trainer.progress_bar_metrics["train/task_loss"]))

    losses = Losses()
    settings = {"callbacks": [losses], "logger": CSVLogger(tmp_path, "", ""), "log_every_n_steps": 3, "max_epochs": 2}
    data = tiny_data(pretrained, tmp_path, batch_size=4)
    tiny_trainer(tmp_path, **settings).fit(fine_tuner(LoRAFineTuner, pretrained), data)
    assert len(set(losses.own)) == len(losses.own) > 6
    assert losses.shown == losses.on_bar == losses.own
    assert logged(tmp_path, "train/task_loss") == pytest.approx(losses.own[2::3])
