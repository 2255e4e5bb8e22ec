"""A run that is resumed again and again, also from the last step of an epoch, ends as an uninterrupted one."""

from functools import partial

import pytest
import torch
from kit.tiny import LORA, fast_adamw, fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint

from asft_lightning import LoRAFineTuner

STEPS_AN_EPOCH, EPOCHS = 5, 4


@pytest.mark.slow
@pytest.mark.parametrize("first", [3, 5, 6])
@pytest.mark.parametrize("second", [7, 9, 10, 13])
def test_resumed_twice(pretrained, tmp_path, first, second):
    """5 and 10 end an epoch: Lightning then does not count the next as begun, and a later resume would repeat its steps."""
    whole, steps = run(pretrained, tmp_path / "whole")
    assert steps == STEPS_AN_EPOCH * EPOCHS
    run(pretrained, tmp_path / "once", tmp_path / "whole" / f"step={first}.ckpt")
    require_same(run(pretrained, tmp_path / "twice", tmp_path / "once" / f"step={second}.ckpt"), (whole, steps))


@pytest.mark.parametrize("step", [2, 3, 4, 6])
@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"limit_train_batches": 3}, 3 * EPOCHS),
        ({"overfit_batches": 0.4}, 2 * EPOCHS),
        ({"limit_train_batches": 3, "accumulate_grad_batches": 2}, 2 * EPOCHS),
    ],
)
def test_resumed_where_an_epoch_is_a_part_of_the_rows(pretrained, tmp_path, step, limits, steps):
    """The loader has more batches than an epoch: where one ended, the next would have gone on with the others."""
    whole = run(pretrained, tmp_path / "whole", **limits)
    assert whole[1] == steps
    require_same(run(pretrained, tmp_path / "resumed", tmp_path / "whole" / f"step={step}.ckpt", **limits), whole)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 7])
def test_resumed_with_a_schedule_of_accumulation(pretrained, tmp_path, step):
    """Lightning does not tell the callback of an epoch that had begun: it would step on every micro-batch."""
    schedule = {0: 2, 2: 3}
    whole = run(pretrained, tmp_path / "whole", callbacks=[GradientAccumulationScheduler(schedule)])
    assert whole[1] == 3 + 3 + 2 + 2
    checkpoint, again = tmp_path / "whole" / f"step={step}.ckpt", [GradientAccumulationScheduler(schedule)]
    require_same(run(pretrained, tmp_path / "resumed", checkpoint, callbacks=again), whole)


@pytest.mark.parametrize("optimizer", ["Adafactor", "Adagrad", "Adadelta", "NAdam", "RMSprop", "SGD", "Adamax", "RAdam"])
def test_resumed_with_other_optimizers(pretrained, tmp_path, optimizer):
    """Each keeps something else of each weight, and settings below 0."""
    made = partial(getattr(torch.optim, optimizer), lr=0.01)
    whole = run(pretrained, tmp_path / "whole", optimizer=made)
    require_same(run(pretrained, tmp_path / "resumed", tmp_path / "whole" / "step=7.ckpt", optimizer=made), whole)


def run(pair, folder, checkpoint=None, callbacks=(), optimizer=fast_adamw, **settings):
    """The trained weights, and how many steps it took to them."""
    torch.manual_seed(0)
    own = [*callbacks, ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")]
    trainer = tiny_trainer(folder, callbacks=own, max_epochs=EPOCHS, enable_checkpointing=True, **settings)
    module = fine_tuner(LoRAFineTuner, pair, lora=LORA | {"lora_dropout": 0.3}, optimizer=optimizer)
    trainer.fit(module, tiny_data(pair, folder, num_rows=20, batch_size=4), ckpt_path=checkpoint)
    return trained_weights(module), trainer.global_step


def require_same(found, expected):
    (weights, steps), (whole, all_steps) = found, expected
    assert steps == all_steps and all(torch.equal(weights[name], weight) for name, weight in whole.items())
