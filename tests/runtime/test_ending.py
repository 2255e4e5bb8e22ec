"""SIGTERM and Ctrl-C while a run trains: heard between steps and between answers, and what goes on is the same run."""

import json
import os
import signal

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights, unsafe_prompts
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers.generation import GenerationMixin

from asft_lightning import AdapterCheckpoint, AsFT, LoRAFineTuner, RefusalJudge, SafetyEvaluation

STEPS = 6
SIGNALS = {signal.SIGINT: SystemExit, signal.SIGTERM: SIGTERMException}


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


class Interrupted(torch.optim.AdamW):
    """At one step Ctrl-C is pressed, twice, when the weights are changed already; or the step fails then."""

    def __init__(self, parameters, at, fails=False):
        super().__init__(parameters, lr=1e-2)
        self.at, self.steps, self.fails = at, 0, fails

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        if self.steps == self.at and self.fails:
            raise RuntimeError("no step")
        if self.steps == self.at:
            send()
            send()
        return loss


class AtEnd(Callback):
    """Is told to end when training is over."""

    def __init__(self, number):
        self.number = number

    def on_train_end(self, *_):
        send(self.number)


@pytest.fixture(autouse=True)
def usual():
    """Lightning ignores Ctrl-C once a run has been ended by one."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def run(kind, pair, folder, at=0, checkpoint=None, accumulated=1, callbacks=(), every=1000, fails=False):
    torch.manual_seed(0)
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=every, save_on_exception=True)
    trainer = tiny_trainer(
        folder,
        callbacks=[saver, *callbacks],
        max_epochs=-1,
        max_steps=STEPS,
        enable_checkpointing=True,
        accumulate_grad_batches=accumulated,
    )
    module = fine_tuner(kind, pair, optimizer=lambda parameters: Interrupted(parameters, at, fails))
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

    again = run(kind, pretrained, tmp_path / "again", checkpoint=checkpoint, accumulated=accumulated)
    whole = run(kind, pretrained, tmp_path / "whole", accumulated=accumulated)
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_step_that_fails_leaves_no_checkpoint(pretrained, tmp_path, usual):
    """Some weights are changed, some may not be: the last regular one counts."""
    with pytest.raises(RuntimeError, match="no step"):
        run(LoRAFineTuner, pretrained, tmp_path, at=4, every=2, fails=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert signal.getsignal(signal.SIGINT) is usual


@pytest.mark.parametrize("number", SIGNALS)
def test_heard_between_answers(pretrained, tmp_path, monkeypatch, number):
    """In the second scoring, of three batches, after the first of them."""
    own, answered = GenerationMixin.generate, []

    def counted(*args, **kwargs):
        answered.append(len(answered))
        if len(answered) == 4:
            send(number)
        return own(*args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", counted)
    scorer = SafetyEvaluation(unsafe_prompts(tmp_path, 3), max_new_tokens=1, batch_size=1, every_n_steps=2)
    with pytest.raises(SIGNALS[number]):
        run(LoRAFineTuner, pretrained, tmp_path, callbacks=[scorer])
    assert len(answered) == 4
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_judge_is_broken_off(pretrained, tmp_path, number):
    class Slow(RefusalJudge):
        calls = went_on = 0

        def __call__(self, prompts, answers):
            self.calls += 1
            if self.calls == 2:
                send(number)
                self.went_on += 1
            return super().__call__(prompts, answers)

    judge = Slow()
    scorer = SafetyEvaluation(unsafe_prompts(tmp_path), judge=judge, max_new_tokens=1, every_n_steps=2)
    with pytest.raises(SIGNALS[number]):
        run(LoRAFineTuner, pretrained, tmp_path, callbacks=[scorer])
    assert (judge.calls, judge.went_on) == (2, 0)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_last_file_is_written_and_the_signal_not_swallowed(pretrained, tmp_path, number):
    with pytest.raises(SIGNALS[number]):
        run(LoRAFineTuner, pretrained, tmp_path, callbacks=[AtEnd(number), AdapterCheckpoint()])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"]


def test_ctrl_c_is_as_it_was_after_a_run_and_after_one_that_failed(pretrained, tmp_path, usual):
    class Failing(Callback):
        def on_train_batch_end(self, *_):
            assert signal.getsignal(signal.SIGINT) is not usual
            raise RuntimeError("no step")

    run(LoRAFineTuner, pretrained, tmp_path / "good")
    assert signal.getsignal(signal.SIGINT) is usual
    with pytest.raises(RuntimeError, match="no step"):
        run(LoRAFineTuner, pretrained, tmp_path / "bad", callbacks=[Failing()])
    assert signal.getsignal(signal.SIGINT) is usual


def test_where_ctrl_c_is_ignored_it_stays_so(pretrained, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(LoRAFineTuner, pretrained, tmp_path, at=3)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_handler_of_the_users_own_is_called_too(pretrained, tmp_path):
    heard, before = [], signal.signal(signal.SIGTERM, lambda *_: heard.append("own"))
    try:
        with pytest.raises(SIGTERMException):
            run(LoRAFineTuner, pretrained, tmp_path, callbacks=[AtEnd(signal.SIGTERM)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["own"]
