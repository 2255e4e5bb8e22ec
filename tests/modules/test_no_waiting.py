"""A training step has the host wait for the device nowhere, outside of what logs."""

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, unsafe_prompts
from kit.waiting import Waits
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from asft_lightning import Activation, Answers, AsFT, FullAsFT, Gram, LoRAFineTuner
from asft_lightning.modules import TaskLoss
from asft_lightning.modules.ready_batch import ready


class Watch(Callback):
    """Counts in the third step of a run, between two that log; its batch is placed on the device as Lightning would."""

    def __init__(self, waits):
        self.waits = waits

    def on_train_start(self, trainer, pl_module):
        self.waits.place([*pl_module.parameters(), *pl_module.buffers()])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.waits.place(value for value in batch.values() if isinstance(value, torch.Tensor))
        self.waits.is_counting = trainer.global_step == 2

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.waits.place(p.grad for p in pl_module.parameters() if p.grad is not None)


def waits_of(module, pair, folder, **data):
    with Waits() as waits:
        trainer = tiny_trainer(folder, callbacks=[Watch(waits)], logger=CSVLogger(folder, "", ""), max_steps=4)
        trainer.fit(module, tiny_data(pair, folder, batch_size=4, **data))
    assert trainer.global_step == 4
    return dict(waits.found)


METHODS = {
    "SFT": lambda prompts: (LoRAFineTuner, {}),
    "mean over rows": lambda prompts: (LoRAFineTuner, {"loss_reduction": "row"}),
    "Gram": lambda prompts: (AsFT, {"anchors": [Gram()], "lambda_warmup_steps": 2}),
    "Activation": lambda prompts: (AsFT, {"anchors": [Activation(prompts=prompts)]}),
    "answers": lambda prompts: (AsFT, {"anchors": [], "answers": Answers(prompts, max_new_tokens=4, budget=0.1)}),
    "whole weights": lambda prompts: (FullAsFT, {"anchors": [Gram(), Activation(prompts=prompts)]}),
    "gradients projected": lambda prompts: (AsFT, {"anchors": [Gram()], "conflict": "project"}),
}


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits(pretrained, tmp_path, method):
    kind, settings = METHODS[method](unsafe_prompts(tmp_path))
    assert waits_of(fine_tuner(kind, pretrained, **settings), pretrained, tmp_path) == {}


def test_a_budget_asks_one_thing_a_step(pretrained, tmp_path):
    """Whether there is anything to hold; what it consists of is moved to the host only then."""
    settings = {"anchors": [Activation(prompts=unsafe_prompts(tmp_path))], "drift_budget": 1e3}
    assert waits_of(fine_tuner(AsFT, pretrained, **settings), pretrained, tmp_path) == {"_local_scalar_dense": 1}


def test_what_waits_is_found(pretrained, tmp_path):
    class Asking(LoRAFineTuner):
        def task_loss(self, batch):
            loss = super().task_loss(batch)
            return loss if float(loss.detach()) > 0 and len(batch["labels"][batch["labels"] > 0]) else 2 * loss

    assert waits_of(fine_tuner(Asking, pretrained), pretrained, tmp_path) == {"_local_scalar_dense": 1, "index": 1}


def test_a_batch_made_ready_has_the_same_loss(pretrained, tmp_path):
    """Without the mask of its padding, with its columns and rows told. A mask of padding before the rows stays."""
    data = tiny_data(pretrained, tmp_path, batch_size=8)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert 0 in batch["attention_mask"]
    model = pretrained.load_model()
    for reduction in ("token", "row"):
        loss = TaskLoss(reduction)
        torch.testing.assert_close(loss(model, ready(batch)), loss(model, batch), rtol=1e-6, atol=0)
    assert "attention_mask" not in ready(batch)
    assert "attention_mask" in ready({name: value.flip(1) for name, value in batch.items()})
