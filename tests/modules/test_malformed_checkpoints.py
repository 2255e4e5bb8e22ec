"""Checkpoints of the right kind and the wrong shape: a run goes on from one or ends in an error of ours."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import AsFT
from asft_lightning.errors import AsFTError

CHANGES = st.sampled_from(["absent", None, 0, -1, "text", [], {}, [[]], float("nan"), torch.zeros(0), torch.zeros(3)])


@pytest.fixture(scope="module")
def made(pretrained, tmp_path_factory):
    """A folder with a run's checkpoint after two steps of four."""
    folder = tmp_path_factory.mktemp("malformed")
    saver = ModelCheckpoint(folder, save_last=True)
    trainer = tiny_trainer(folder, callbacks=[saver], enable_checkpointing=True)
    trainer.fit(fine_tuner(AsFT, pretrained), tiny_data(pretrained, folder, batch_size=8))
    return folder


def places(node, path=(), depth=4):
    """Paths into a checkpoint, its root not among them."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        if depth > 1:
            yield from places(value, (*path, key), depth - 1)


def changed(checkpoint, path, change):
    checkpoint = copy.deepcopy(checkpoint)
    *parents, last = path
    node = checkpoint
    for key in parents:
        node = node[key]
    if isinstance(change, str) and change == "absent":
        del node[last]
    else:
        node[last] = change
    return checkpoint


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_ends_well_or_in_one_line(made, pretrained, data):
    checkpoint = torch.load(made / "last.ckpt", weights_only=True)
    path = data.draw(st.sampled_from(list(places(checkpoint))))
    torch.save(changed(checkpoint, path, data.draw(CHANGES)), made / "given.ckpt")
    module = fine_tuner(AsFT, pretrained)
    trainer = tiny_trainer(made, max_epochs=2)
    try:
        trainer.fit(module, tiny_data(pretrained, made, batch_size=8), ckpt_path=str(made / "given.ckpt"))
    except AsFTError:
        return
    assert all(bool(weight.isfinite().all()) for weight in trained_weights(module).values())
    assert module.penalty is not None
