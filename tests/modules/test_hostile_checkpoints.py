"""Checkpoints that are whole and of this run, but for what would train it uphill, or remove what is not its own."""

import os

import pytest
import torch
from kit import tiny
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from asft_lightning import AsFT, ConfigurationError

RATE = "optimizer_states.param_groups"


def fit(pair, folder, epochs, checkpoint=None, **settings):
    """A run that saves after each epoch; its trainer."""
    saver = ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)
    stopping = EarlyStopping("train/task_loss", patience=9, check_on_train_epoch_end=True)
    callbacks = [saver, stopping]
    trainer = tiny.tiny_trainer(folder, max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
    module = tiny.fine_tuner(AsFT, pair, **settings)
    trainer.fit(module, tiny.tiny_data(pair, folder, batch_size=8), ckpt_path=checkpoint)
    return trainer


@pytest.fixture
def begun(pretrained, tmp_path):
    """A checkpoint's content after an epoch of a run whose rate falls."""
    fit(pretrained, tmp_path, 1, lr_scheduler=steady)
    return torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


def steady(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 100)


def go_on(pair, folder, checkpoint):
    torch.save(checkpoint, folder / "given.ckpt")
    return fit(pair, folder, 2, folder / "given.ckpt", lr_scheduler=steady)


def group(checkpoint):
    return checkpoint["optimizer_states"][0]["param_groups"][0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: group(c).update(maximize=True), f"{RATE}.maximize cannot be True"),
        (lambda c: group(c).update(lr=-0.01), f"{RATE}.lr cannot be"),
        (lambda c: group(c).update(initial_lr=-0.01), f"{RATE}.initial_lr cannot be"),
        (lambda c: c["lr_schedulers"][0].update(base_lrs=[-0.01]), "lr_schedulers.base_lrs cannot be"),
        (lambda c: c["lr_schedulers"][0].update(base_lrs="x"), "lr_schedulers.base_lrs cannot be 'x'"),
        (lambda c: c["lr_schedulers"][0].update(step=3), "lr_schedulers cannot be \\['step'\\]"),
        (lambda c: c["lr_schedulers"][0].update(last_epoch="x"), "lr_schedulers.last_epoch cannot be 'x'"),
        (lambda c: stopping(c).update(wait_count="x"), "EarlyStopping.wait_count cannot be 'x'"),
        (lambda c: loaders(c).append({}), "how many of the epoch's 2 batches were given, and has None"),
        (lambda c: loaders(c).append({"batches": 10**6}), "how many of the epoch's 2 batches were given, and has 1000000"),
    ],
)
def test_what_no_run_writes_is_refused(pretrained, tmp_path, begun, change, told):
    change(begun)
    with pytest.raises(ConfigurationError, match=told):
        go_on(pretrained, tmp_path, begun)


def stopping(checkpoint):
    return next(state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping"))


def loaders(checkpoint):
    """What the loaders of the rows have kept, emptied."""
    state = checkpoint["loops"]["fit_loop"]["state_dict"]
    state["combined_loader"] = []
    return state["combined_loader"]


def test_one_that_is_as_it_was_is_gone_on_from(pretrained, tmp_path, begun):
    assert go_on(pretrained, tmp_path, begun).global_step == 4


@pytest.mark.filterwarnings("ignore:.* is left as it is. this run has saved no checkpoint beside it")
@pytest.mark.parametrize("name", ["best_model_path", "last_model_path"])
@pytest.mark.parametrize("spelling", ["{}", "local://{}", "file://{}", "{run}/checkpoints/../../{name}"])
def test_no_folder_that_a_checkpoint_names_is_removed(pretrained, tmp_path, begun, name, spelling):
    """Nor a file beside it: savers remove what they had saved before."""
    precious = tmp_path.parent / f"{tmp_path.name}-precious"
    precious.mkdir()
    (precious / "thesis.ckpt").write_text("years of work")
    for place in (precious, precious / "thesis.ckpt"):
        relative = os.path.relpath(place, tmp_path.parent)
        path = spelling.format(place, run=tmp_path, name=relative)
        for state in begun["callbacks"].values():
            if name in state:
                state |= {name: path, "best_k_models": {path: torch.tensor(0.0)}, "kth_best_model_path": path}
                state["dirpath"] = str(tmp_path / "checkpoints")
        go_on(pretrained, tmp_path, begun)
        assert (precious / "thesis.ckpt").read_text() == "years of work"
