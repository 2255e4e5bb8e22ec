"""Ctrl-C at any moment: what goes on from the checkpoint that is written then is the uninterrupted run."""

import os
import signal

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import AsFT, LoRAFineTuner
from asft_lightning.runtime.whole_steps import WholeSteps

STEPS = 6


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


class Interrupted(torch.optim.AdamW):
    """At one step Ctrl-C is pressed, twice, when the weights are changed already."""

    def __init__(self, parameters, at):
        super().__init__(parameters, lr=1e-2)
        self.at, self.steps = at, 0

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        if self.steps == self.at:
            press_ctrl_c()
            press_ctrl_c()
        return loss


class AtWork(Callback):
    """Presses Ctrl-C when a step is done, as in the middle of a scoring."""

    went_on = False

    def on_train_batch_end(self, *_):
        press_ctrl_c()
        self.went_on = True


MOMENTS = ("batch_start", "before_backward", "before_zero_grad", "batch_end", "epoch_start", "epoch_end")


class At(Callback):
    """Ends the run at the third moment of a kind."""

    def __init__(self, moment):
        self.moment, self.left = moment, 3

    def reached(self, moment):
        self.left -= moment == self.moment
        if self.left == 0:
            raise KeyboardInterrupt

    def on_train_batch_start(self, *_):
        self.reached("batch_start")

    def on_before_backward(self, *_):
        self.reached("before_backward")

    def on_before_zero_grad(self, *_):
        self.reached("before_zero_grad")

    def on_train_batch_end(self, *_):
        self.reached("batch_end")

    def on_train_epoch_start(self, *_):
        self.reached("epoch_start")

    def on_train_epoch_end(self, *_):
        self.reached("epoch_end")


@pytest.fixture(autouse=True)
def usual():
    """Lightning ignores Ctrl-C once a run has been ended by one."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def run(kind, pair, folder, at=0, checkpoint=None, accumulated=1, callbacks=()):
    torch.manual_seed(0)
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1000, save_on_exception=True)
    trainer = tiny_trainer(
        folder,
        callbacks=[saver, *callbacks],
        max_epochs=-1,
        max_steps=STEPS,
        enable_checkpointing=True,
        accumulate_grad_batches=accumulated,
    )
    module = fine_tuner(kind, pair, optimizer=lambda parameters: Interrupted(parameters, at))
    trainer.fit(module, tiny_data(pair, folder, num_rows=8, batch_size=4), ckpt_path=checkpoint)
    assert trainer.global_step == STEPS
    return trained_weights(module)


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_step_is_done_and_counted(pretrained, tmp_path, kind, accumulated):
    with pytest.raises(SystemExit):
        run(kind, pretrained, tmp_path, at=3, accumulated=accumulated)
    checkpoint = tmp_path / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3
    signal.signal(signal.SIGINT, signal.default_int_handler)

    again = run(kind, pretrained, tmp_path / "again", checkpoint=checkpoint, accumulated=accumulated)
    whole = run(kind, pretrained, tmp_path / "whole", accumulated=accumulated)
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("moment", MOMENTS)
def test_any_moment(pretrained, tmp_path, moment):
    """Epochs have two batches."""
    with pytest.raises(SystemExit):
        run(LoRAFineTuner, pretrained, tmp_path, callbacks=[At(moment)])
    again = run(LoRAFineTuner, pretrained, tmp_path / "again", checkpoint=tmp_path / "last.ckpt")
    whole = run(LoRAFineTuner, pretrained, tmp_path / "whole")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_scoring_is_broken_off(pretrained, tmp_path):
    scoring = AtWork()
    trainer = tiny_trainer(tmp_path, callbacks=[scoring], max_steps=STEPS)
    with pytest.raises(SystemExit):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path))
    assert not scoring.went_on
    assert trainer.global_step == 1


def test_ctrl_c_is_as_it_was_after_a_run_and_after_a_step_that_failed(pretrained, tmp_path, usual):
    class Failing(torch.optim.AdamW):
        def step(self, closure=None):
            super().step(closure)
            assert signal.getsignal(signal.SIGINT) is not usual
            raise RuntimeError("no step")

    run(LoRAFineTuner, pretrained, tmp_path / "good")
    assert signal.getsignal(signal.SIGINT) is usual
    with pytest.raises(RuntimeError, match="no step"):
        tiny_trainer(tmp_path, max_steps=1).fit(
            fine_tuner(LoRAFineTuner, pretrained, optimizer=Failing), tiny_data(pretrained, tmp_path)
        )
    assert signal.getsignal(signal.SIGINT) is usual


def test_where_ctrl_c_is_ignored_it_stays_so(pretrained, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(LoRAFineTuner, pretrained, tmp_path, at=3)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_without_it_the_step_would_be_taken_twice(pretrained, tmp_path, monkeypatch):
    """What the others are about."""
    monkeypatch.setattr(WholeSteps, "on_before_optimizer_step", lambda *_: None)
    with pytest.raises(SystemExit):
        run(LoRAFineTuner, pretrained, tmp_path, at=3)
    checkpoint = tmp_path / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
