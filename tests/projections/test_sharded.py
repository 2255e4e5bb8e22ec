"""A sharded adapter, projected on real gloo ranks, is that of one process."""

import os

import pytest
import tiny
import torch
import torch.distributed as dist
from test_sharding import model_of, on_ranks
from torch.distributed.device_mesh import init_device_mesh

from asft_lightning import SafeLoRA
from asft_lightning.anchors import WeightPair, open_weights
from asft_lightning.projections import project_model
from asft_lightning.sharding import shard, whole_state


def projected(model):
    sides = [{name: value.clone() for name, value in tiny.tiny_model(seed).state_dict().items()} for seed in (1, 2)]
    return project_model(model, SafeLoRA(num_layers=2), WeightPair(*map(open_weights, sides)))


def sharded(rank, world, folder):
    torch.set_num_threads(1)  # the parent's threads are not there after a fork
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        model = model_of()
        shard(model, init_device_mesh("cpu", (world,)))
        found = projected(model)
        torch.save(([layer.changed for layer in found], whole_state(model)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked: a spawned one would import everything again")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*")
def test_sharded_over_ranks_it_is_that_of_one_process(tmp_path):
    on_ranks(sharded, (2, str(tmp_path)), 2)
    model = model_of()
    changed = [layer.changed for layer in projected(model)]
    assert sum(changed) == 2
    for rank in range(2):
        found, state = torch.load(tmp_path / f"{rank}.pt")
        assert found == changed
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert torch.equal(state[name], parameter.detach()), name
