"""A loss that becomes NaN: the run stops with the rows of that batch, and no spoilt adapter is ever written."""

import json

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from asft_lightning import AdapterCheckpoint, AsFT, LoRAFineTuner, TrainingError


class Spoil(Callback):
    """Makes a frozen weight NaN before a step, as a damaged memory or an overflow would, and keeps the factors so far."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.kept = trained_weights(pl_module)
            next(p for p in pl_module.model.parameters() if not p.requires_grad).data.fill_(float("nan"))


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
def test_run_stops_before_a_weight_is_spoilt(pretrained, tmp_path, kind):
    spoil, module = Spoil(step=2), fine_tuner(kind, pretrained)
    callbacks = [spoil, AdapterCheckpoint(), ModelCheckpoint(tmp_path / "kept", save_last=True, every_n_train_steps=1)]
    trainer = tiny_trainer(tmp_path, callbacks=callbacks, max_epochs=2, enable_checkpointing=True)
    with pytest.raises(TrainingError, match=r"must be a finite number, and at step 2 it is not \(task loss nan") as error:
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    rows = [json.loads(line)["text"] for line in (tmp_path / "spoilt-batch-rank0.jsonl").read_text().splitlines()]

    assert str(tmp_path / "spoilt-batch-rank0.jsonl") in str(error.value)
    assert len(rows) == 4
    assert all("<|user|>" in row and "<|assistant|>" in row for row in rows)
    for name, weight in spoil.kept.items():
        assert torch.equal(trained_weights(module)[name], weight)
    assert not (tmp_path / "adapter").exists()
    saved = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_penalty_that_is_no_number_is_named(pretrained, tmp_path):
    """Of the two parts of the loss, the error says which it was."""
    module = fine_tuner(AsFT, pretrained)

    class SpoilAnchors(Callback):
        def on_train_start(self, trainer, pl_module):
            for buffer in pl_module.penalty.buffers():
                buffer.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"\(task loss \d.*, λ·penalty nan\)"):
        tiny_trainer(tmp_path, callbacks=[SpoilAnchors()]).fit(module, tiny_data(pretrained, tmp_path))
