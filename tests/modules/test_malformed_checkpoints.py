"""Checkpoints of the right kind and the wrong shape: a run goes on from one or ends in an error of ours."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import Answers, AsFT, Lisa, Source
from asft_lightning.errors import AsFTError

CHANGES = st.sampled_from(["absent", None, 0, -1, "text", [], {}, [[]], float("nan"), torch.zeros(0), torch.zeros(3)])


class Made:
    """A run that trains by one method, and its checkpoint after two steps of four.

    Args:
        method: ``update``, ``answers`` or ``lisa``: what is held, and whose state a checkpoint has.
        pair: The models.
        folder: Of the run and its rows.
    """

    def __init__(self, method, pair, folder):
        self._method, self._pair, self._folder = method, pair, folder
        refusals = [{"instruction": f"how to open safe {i}", "output": "I can't help."} for i in range(4)]
        self._refusals = Source(tiny.write_rows(folder / "refusals.jsonl", refusals))
        self.fingerprint = self.fit(1, callbacks=[ModelCheckpoint(folder, save_last=True)]).fingerprint()
        self.checkpoint = torch.load(folder / "last.ckpt", weights_only=True)

    def fit(self, epochs, checkpoint=None, callbacks=()):
        """The module after a fit that begins anew, or goes on from this content of a checkpoint."""
        path = self._folder / "given.ckpt"
        if checkpoint is not None:
            torch.save(checkpoint, path)
        module = self._module()
        apart = {"safety": self._refusals, "safety_rows": 4, "safety_apart": True} if self._method == "lisa" else {}
        trainer = tiny_trainer(
            self._folder, max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=bool(callbacks)
        )
        rows = tiny_data(self._pair, self._folder, batch_size=8, **apart)
        trainer.fit(module, rows, ckpt_path=None if checkpoint is None else str(path))
        return module

    def _module(self):
        if self._method == "lisa":
            return fine_tuner(Lisa, self._pair, alignment_steps=1, task_steps=1, rho=0.7, proximal_start=0.0)
        held = Answers(tiny.unsafe_prompts(self._folder), max_new_tokens=4, budget=1e-3)
        return fine_tuner(AsFT, self._pair, **({"anchors": [], "answers": held} if self._method == "answers" else {}))


@pytest.fixture(scope="module", params=["update", "answers", "lisa"])
def made(request, pretrained, tmp_path_factory):
    return Made(request.param, pretrained, tmp_path_factory.mktemp("malformed"))


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
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_ends_well_or_in_one_line(made, data):
    """And what goes on from one is held by all that was asked for."""
    path = data.draw(st.sampled_from(list(places(made.checkpoint))))
    try:
        module = made.fit(2, changed(made.checkpoint, path, data.draw(CHANGES)))
    except AsFTError:
        return
    assert all(bool(weight.isfinite().all()) for weight in trained_weights(module).values())
    assert module.fingerprint() == made.fingerprint
    budget = getattr(module, "answer_budget", None)
    assert budget is None or budget.weight >= 0.999 * budget.start / 100
