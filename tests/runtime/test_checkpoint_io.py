"""Which plugin writes and reads checkpoints: behind one that wraps another it is ours as well."""

import pytest
import torch
from kit.commands import Exploit
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from asft_lightning import ConfigurationError, LoRAFineTuner
from asft_lightning.runtime.checkpoint_io import WholeCheckpointIO, keep_checkpoints_whole


class Wrapped(AsyncCheckpointIO):
    """One around another."""


@pytest.mark.parametrize("plugin", [AsyncCheckpointIO, lambda: Wrapped(AsyncCheckpointIO())])
def test_what_wraps_another_reads_nothing_but_data(tmp_path, witness, plugin):
    strategy = tiny_trainer(tmp_path, plugins=[plugin()]).strategy
    keep_checkpoints_whole(strategy)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "more": Exploit(witness)}, tmp_path / "last.ckpt")
    with pytest.raises(ConfigurationError, match="holds more than tensors, and nothing of it was executed"):
        strategy.checkpoint_io.load_checkpoint(tmp_path / "last.ckpt")
    assert not witness.exists()


def test_a_plugin_of_ones_own_is_left_alone(tmp_path):
    class Mine(CheckpointIO):
        def save_checkpoint(self, *_, **__): ...

        def load_checkpoint(self, *_, **__): ...

        def remove_checkpoint(self, *_): ...

    strategy = tiny_trainer(tmp_path, plugins=[Mine()]).strategy
    keep_checkpoints_whole(strategy)
    assert type(strategy.checkpoint_io) is Mine
    strategy = tiny_trainer(tmp_path).strategy
    keep_checkpoints_whole(strategy)
    assert type(strategy.checkpoint_io) is WholeCheckpointIO


def test_written_beside_training_and_gone_on_from(pretrained, tmp_path):
    def run(folder, checkpoint=None, **settings):
        torch.manual_seed(0)
        saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = tiny_trainer(folder, callbacks=[saver], enable_checkpointing=True, max_epochs=2, **settings)
        module = fine_tuner(LoRAFineTuner, pretrained)
        trainer.fit(module, tiny_data(pretrained, folder, batch_size=8), ckpt_path=checkpoint)
        return trained_weights(module)

    whole = run(tmp_path / "whole", plugins=[AsyncCheckpointIO()])
    again = run(tmp_path / "again", tmp_path / "whole" / "step=1.ckpt", plugins=[AsyncCheckpointIO()])
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
