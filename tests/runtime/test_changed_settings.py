"""Settings that a resumed run changes are taken, or refused; none is dropped for the checkpoint's."""

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import LoRAFineTuner


class Groups(Callback):
    """The first group of the optimizer at each step, before it."""

    def __init__(self):
        self.found = []

    def on_train_batch_start(self, trainer, *_):
        (group,) = trainer.optimizers[0].param_groups
        self.found.append({name: group[name] for name in ("lr", "weight_decay", "betas")})


def run(pair, folder, optimizer, decay, steps, checkpoint=None):
    groups, saver = Groups(), ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = tiny_trainer(folder, callbacks=[groups, saver], enable_checkpointing=True, max_steps=steps, max_epochs=-1)
    module = fine_tuner(LoRAFineTuner, pair, optimizer=optimizer, lr_scheduler=decay)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4), ckpt_path=checkpoint)
    return groups.found


def adamw(lr, **settings):
    return lambda trained: torch.optim.AdamW(trained, lr=lr, **{"weight_decay": 0.0, **settings})


@pytest.mark.parametrize("decay", [None, "linear", lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)])
def test_a_new_rate_is_trained_with_from_there(pretrained, tmp_path, capfd, decay):
    begun = run(pretrained, tmp_path / "begun", adamw(0.01), decay, 4)
    new = adamw(0.001, weight_decay=0.25)
    resumed = run(pretrained, tmp_path / "resumed", new, decay, 4, tmp_path / "begun" / "step=2.ckpt")

    assert [group["lr"] for group in resumed] == pytest.approx([group["lr"] / 10 for group in begun[2:]])
    assert {group["weight_decay"] for group in resumed} == {0.25} and {group["betas"] for group in resumed} == {(0.9, 0.999)}
    assert "lr 0.001 (before: 0.01), weight_decay 0.25 (before: 0.0)" in capfd.readouterr().out
    last = run(pretrained, tmp_path / "again", new, decay, 4, tmp_path / "resumed" / "step=3.ckpt")  # no change any more
    assert last == resumed[1:] and "before" not in capfd.readouterr().out


def test_what_a_group_has_of_its_own_stays(pretrained, tmp_path):
    def grouped(lr):
        return lambda trained: torch.optim.AdamW([{"params": trained, "lr": 0.02}], lr=lr)

    run(pretrained, tmp_path / "begun", grouped(0.01), None, 2)
    resumed = run(pretrained, tmp_path / "resumed", grouped(0.001), None, 3, tmp_path / "begun" / "step=2.ckpt")
    assert [group["lr"] for group in resumed] == [0.02]
