"""A run that is ended between two micro-batches of an accumulated step goes on from the last whole one."""

import pytest
import torch
from kit.tiny import LORA, EndAfter, fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import LoRAFineTuner

BATCHES_AN_EPOCH, ACCUMULATED = 5, 3  # the second step of an epoch has two batches


def run(pair, folder, checkpoint=None, ended_after=0):
    torch.manual_seed(0)
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1000, save_on_exception=True)
    trainer = tiny_trainer(
        folder, callbacks=[saver, EndAfter(ended_after)], max_epochs=3, accumulate_grad_batches=ACCUMULATED,
        enable_checkpointing=True,
    )  # fmt: skip
    module = fine_tuner(LoRAFineTuner, pair, lora=LORA | {"lora_dropout": 0.3})
    data = tiny_data(pair, folder, num_rows=20, batch_size=4)
    if ended_after:
        with pytest.raises(RuntimeError, match="ended"):
            trainer.fit(module, data, ckpt_path=checkpoint)
    else:
        trainer.fit(module, data, ckpt_path=checkpoint)
        assert trainer.global_step == 6
    return trained_weights(module)


@pytest.fixture(scope="module")
def whole(pretrained, tmp_path_factory):
    return run(pretrained, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("ended_after", range(ACCUMULATED, 3 * BATCHES_AN_EPOCH))
@pytest.mark.slow
def test_goes_on_from_the_last_whole_step(pretrained, tmp_path, whole, ended_after):
    run(pretrained, tmp_path, ended_after=ended_after)
    again = run(pretrained, tmp_path, checkpoint=next(tmp_path.glob("*.ckpt")))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_ended_twice_in_one_step(pretrained, tmp_path, whole):
    """The second run is ended before it has made a step."""
    run(pretrained, tmp_path, ended_after=4)
    run(pretrained, tmp_path / "again", checkpoint=next(tmp_path.glob("*.ckpt")), ended_after=1)
    again = run(pretrained, tmp_path / "third", checkpoint=next((tmp_path / "again").glob("*.ckpt")))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
