"""A run that was ended after its last step, in what is done at the end: going on, it does that."""

import json

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, unsafe_prompts
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import load_file

from asft_lightning import AdapterCheckpoint, AlignmentMonitor, LoRAFineTuner, SafetyEvaluation
from asft_lightning.callbacks.run_cost import RunCost

LIMITS = [{"max_steps": 4, "max_epochs": -1}, {"max_epochs": 2}]


class EndedAtEnd(Callback):
    def on_train_end(self, *_):
        raise RuntimeError("ended")


class Starts(Callback):
    count = 0

    def on_train_start(self, *_):
        self.count += 1


def run(pair, folder, limit, *callbacks, saving=2, checkpoint=None):
    """Two steps an epoch."""
    torch.manual_seed(0)
    saver = ModelCheckpoint(folder / "kept", save_last=True, save_on_exception=True, every_n_train_steps=saving)
    scorer = SafetyEvaluation(unsafe_prompts(folder), max_new_tokens=1)
    own = [scorer, *callbacks, AdapterCheckpoint(), RunCost(), saver]
    trainer = tiny_trainer(folder, callbacks=own, enable_checkpointing=True, **limit)
    trainer.fit(fine_tuner(LoRAFineTuner, pair), tiny_data(pair, folder, num_rows=8, batch_size=4), ckpt_path=checkpoint)
    return trainer.global_step


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("saving", [2, 1000], ids=["regular checkpoint", "checkpoint of the end"])
def test_end_is_done_when_the_run_goes_on(pretrained, tmp_path, limit, saving):
    with pytest.raises(RuntimeError, match="ended"):
        run(pretrained, tmp_path, limit, EndedAtEnd(), saving=saving)
    assert not (tmp_path / "adapter").exists()
    assert summary(tmp_path)["run"]["ended"] is False

    assert run(pretrained, tmp_path, limit, saving=saving, checkpoint=tmp_path / "kept" / "last.ckpt") == 4
    run(pretrained, tmp_path / "whole", limit)
    found, expected = adapter(tmp_path), adapter(tmp_path / "whole")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    told, whole = summary(tmp_path), summary(tmp_path / "whole")
    assert told["run"]["ended"] is True
    assert told["safety/harmful_score"] == whole["safety/harmful_score"]


class StoppedSoon(EarlyStopping):
    """Stops after the second epoch, whatever was learnt."""

    def __init__(self):
        super().__init__("train/task_loss", patience=1, min_delta=1e9, check_on_train_epoch_end=True)


def test_run_that_was_stopped_early_is_not_gone_on_with(pretrained, tmp_path):
    """From the checkpoint of its end: one from before the check that stopped it has not been told."""
    limit, saving = {"max_epochs": 5}, 1000
    assert run(pretrained, tmp_path / "whole", limit, StoppedSoon()) == 4
    with pytest.raises(RuntimeError, match="ended"):
        run(pretrained, tmp_path, limit, StoppedSoon(), EndedAtEnd(), saving=saving)
    last = tmp_path / "kept" / "last.ckpt"
    assert run(pretrained, tmp_path, limit, StoppedSoon(), saving=saving, checkpoint=last) == 4
    found, expected = adapter(tmp_path), adapter(tmp_path / "whole")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert run(pretrained, tmp_path, limit, StoppedSoon(), saving=saving, checkpoint=last) == 4


def test_nothing_is_done_twice(pretrained, tmp_path):
    limit, starts = LIMITS[0], Starts()
    run(pretrained, tmp_path, limit)
    before = summary(tmp_path)
    run(pretrained, tmp_path, limit, starts, checkpoint=tmp_path / "kept" / "last.ckpt")
    assert starts.count == 0
    assert summary(tmp_path) == before


def test_run_that_is_made_longer_has_not_ended(pretrained, tmp_path):
    run(pretrained, tmp_path, LIMITS[0])
    longer = {"max_steps": 6, "max_epochs": -1}
    with pytest.raises(RuntimeError, match="ended"):
        run(pretrained, tmp_path, longer, EndedAtEnd(), checkpoint=tmp_path / "kept" / "last.ckpt")
    assert summary(tmp_path)["run"]["ended"] is False
    assert run(pretrained, tmp_path, longer, checkpoint=tmp_path / "kept" / "last.ckpt") == 6
    assert summary(tmp_path)["run"]["ended"] is True


class EndedAfterEpoch(Callback):
    """Before any callback after it."""

    def __init__(self, hook):
        setattr(self, hook, self.end)

    def end(self, trainer, *_):
        if trainer.global_step == 2:
            raise RuntimeError("ended")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
@pytest.mark.parametrize("schedule", [{"every_n_steps": 2}, {"every_n_epochs": 1}])
def test_scoring_that_was_broken_off_is_made_up_for(pretrained, tmp_path, hook, schedule):
    """Also of the monitor; and nothing is measured twice."""

    def fit(*callbacks, checkpoint=None):
        torch.manual_seed(0)
        saver = ModelCheckpoint(tmp_path, save_last=True, save_on_exception=True, every_n_train_steps=1000)
        scorer = SafetyEvaluation(unsafe_prompts(tmp_path), max_new_tokens=1, **schedule)
        own = [*callbacks, scorer, AlignmentMonitor(**{"every_n_steps": None} | schedule, picture=False), saver]
        trainer = tiny_trainer(tmp_path, callbacks=own, enable_checkpointing=True, max_epochs=2)
        data = tiny_data(pretrained, tmp_path, num_rows=8, batch_size=4)
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), data, ckpt_path=checkpoint)

    with pytest.raises(RuntimeError, match="ended"):
        fit(EndedAfterEpoch(hook))
    fit(checkpoint=tmp_path / "last.ckpt")
    assert summary(tmp_path)["safety/harmful_score"]["steps"].keys() == {"2", "4"}
    moments = [line.split(",")[0] for line in (tmp_path / "alignment.csv").read_text().splitlines()[1:]]
    layers = moments.count("before")
    assert {moment: moments.count(moment) for moment in moments} == dict.fromkeys(("before", "2", "4", "after"), layers)
