"""A run that is resumed again and again, also from the last step of an epoch, ends as an uninterrupted one."""

import pytest
import torch
from kit.tiny import LORA, fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import LoRAFineTuner

STEPS_AN_EPOCH, EPOCHS = 5, 4


@pytest.mark.slow
@pytest.mark.parametrize("first", [3, 5, 6])
@pytest.mark.parametrize("second", [7, 9, 10, 13])
def test_resumed_twice(pretrained, tmp_path, first, second):
    """5 and 10 end an epoch: Lightning then does not count the next as begun, and a later resume would repeat its steps."""

    def run(name, checkpoint=None):
        torch.manual_seed(0)
        saver = ModelCheckpoint(tmp_path / name, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = tiny_trainer(tmp_path / name, callbacks=[saver], max_epochs=EPOCHS, enable_checkpointing=True)
        module = fine_tuner(LoRAFineTuner, pretrained, lora=LORA | {"lora_dropout": 0.3})
        data = tiny_data(pretrained, tmp_path, num_rows=20, batch_size=4)
        trainer.fit(module, data, ckpt_path=checkpoint)
        assert trainer.global_step == STEPS_AN_EPOCH * EPOCHS
        return trained_weights(module)

    whole = run("whole")
    run("once", tmp_path / "whole" / f"step={first}.ckpt")
    again = run("twice", tmp_path / "once" / f"step={second}.ckpt")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
