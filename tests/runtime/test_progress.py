"""A run that is ended anywhere goes on from the last whole step, and is then the run that was not ended."""

import pytest
import torch
from kit.tiny import LORA, EndAfter, fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import LoRAFineTuner

BATCHES_AN_EPOCH, ACCUMULATED = 5, 3  # the second step of an epoch has two batches
EPOCHS = {"max_epochs": 3}
STEPS = {"max_epochs": -1, "max_steps": 6}
MOMENTS = (
    "on_train_epoch_start", "on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_before_zero_grad",
    "on_train_batch_end", "on_train_epoch_end", "on_train_end",
)  # fmt: skip


def run(pair, folder, checkpoint=None, ending=(), limit=EPOCHS, accumulated=ACCUMULATED, **saver):
    """With dropout, and a rate that falls: Lightning then asks for the loader before it reads the checkpoint."""
    torch.manual_seed(0)
    saver = {"save_last": True, "every_n_train_steps": 1000, "save_on_exception": True} | saver
    trainer = tiny_trainer(
        folder, callbacks=[ModelCheckpoint(folder, **saver), *ending], accumulate_grad_batches=accumulated,
        enable_checkpointing=True, **limit,
    )  # fmt: skip
    module = fine_tuner(LoRAFineTuner, pair, lora=LORA | {"lora_dropout": 0.3}, lr_scheduler="linear")
    data = tiny_data(pair, folder, num_rows=20, batch_size=4)
    if ending:
        with pytest.raises(RuntimeError, match="ended"):
            trainer.fit(module, data, ckpt_path=checkpoint)
    else:
        trainer.fit(module, data, ckpt_path=checkpoint)
    return trained_weights(module)


def is_same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.fixture(scope="module")
def whole(pretrained, tmp_path_factory):
    return run(pretrained, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("ended_after", range(ACCUMULATED, 3 * BATCHES_AN_EPOCH))
@pytest.mark.slow
def test_goes_on_from_the_last_whole_step(pretrained, tmp_path, whole, ended_after):
    run(pretrained, tmp_path, ending=[EndAfter(ended_after)])
    assert is_same(run(pretrained, tmp_path, checkpoint=next(tmp_path.glob("*.ckpt"))), whole)


def test_ended_twice_in_one_step(pretrained, tmp_path, whole):
    """The second run is ended before it has made a step."""
    run(pretrained, tmp_path, ending=[EndAfter(4)])
    run(pretrained, tmp_path / "again", checkpoint=next(tmp_path.glob("*.ckpt")), ending=[EndAfter(1)])
    again = run(pretrained, tmp_path / "third", checkpoint=next((tmp_path / "again").glob("*.ckpt")))
    assert is_same(again, whole)


@pytest.mark.parametrize("moment", MOMENTS)
def test_any_moment(pretrained, tmp_path, whole, moment):
    """Of the second epoch, where a callback has one there."""
    left = iter(range({"on_train_end": 1, "on_train_epoch_start": 2, "on_train_epoch_end": 2}.get(moment, 4)))

    def end(*_):
        next(left)
        if not left.__length_hint__():
            raise RuntimeError("ended")

    ending = type("Ending", (Callback,), {moment: end})()
    run(pretrained, tmp_path, ending=[ending], every_n_train_steps=None, every_n_epochs=1)
    assert is_same(run(pretrained, tmp_path, checkpoint=tmp_path / "last.ckpt"), whole)


@pytest.mark.parametrize("limit", [EPOCHS, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("saving", [{"every_n_train_steps": 1}, {"every_n_train_steps": None, "every_n_epochs": 1}])
def test_every_regular_checkpoint(pretrained, tmp_path, whole, limit, saving):
    """What a run goes on from that was killed."""
    assert is_same(run(pretrained, tmp_path, limit=limit, save_top_k=-1, **saving), whole)
    checkpoints = sorted(tmp_path.glob("epoch=*.ckpt"))
    assert len(checkpoints) == (6 if saving["every_n_train_steps"] else 3)
    for number, checkpoint in enumerate(checkpoints):
        assert is_same(run(pretrained, tmp_path / str(number), checkpoint=checkpoint, limit=limit), whole)
