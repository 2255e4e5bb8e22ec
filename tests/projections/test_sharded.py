"""A sharded adapter, projected on real gloo ranks, is that of one process."""

import torch
from kit import models
from kit.ranks import model_of, on_ranks, sharded, trained

from asft_lightning import SafeLoRA
from asft_lightning.anchors import WeightPair
from asft_lightning.projections import project_model
from asft_lightning.runtime.sharding import put_together
from asft_lightning.weights.matrices import open_weights


def projected(model):
    sides = [
        {name: value.clone() for name, value in models.tiny_model("chat", seed).state_dict().items()} for seed in (1, 2)
    ]
    return project_model(model, SafeLoRA(num_layers=2), WeightPair(*map(open_weights, sides)))


def changed_and_kept(rank):
    model = sharded(model_of())
    found = projected(model)
    return [layer.changed for layer in found], put_together(trained(model))


def test_sharded_over_ranks_it_is_that_of_one_process(tmp_path):
    ranks = on_ranks(changed_and_kept, 2, tmp_path)
    model = model_of()
    changed = [layer.changed for layer in projected(model)]
    assert sum(changed) == 2
    for found, state in ranks:
        assert found == changed
        assert all(torch.equal(state[name], parameter.detach()) for name, parameter in trained(model).items())
