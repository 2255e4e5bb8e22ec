"""SwitchPoint: distance and gradient by hand, and on real gloo ranks with sharded factors those of one process."""

import os

import pytest
import torch
import torch.distributed as dist
from test_sharding import model_of, on_ranks
from torch.distributed.device_mesh import init_device_mesh

from asft_lightning.modules.switch_point import SwitchPoint
from asft_lightning.sharding import shard, whole_factor


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def drifted(model):
    """(switch point, its parameters a known step away from it)."""
    parameters = trained(model)
    point = SwitchPoint.of(parameters)
    with torch.no_grad():
        for i, parameter in enumerate(parameters.values()):
            parameter.mul_(1 + 0.1 * (i + 1))
    return point, parameters


def test_distance_and_gradient_by_hand():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    point = SwitchPoint.of({"w": w})
    w.data = torch.tensor([4.0, -2.0])
    distance = point.distance({"w": w})
    distance.backward()
    assert float(distance) == 25.0
    assert w.grad.tolist() == [6.0, -8.0]


def test_state_brings_it_back():
    point, parameters = drifted(model_of())
    again = SwitchPoint.from_state(point.state(), parameters)
    assert all(torch.equal(again.weights[name], weight) for name, weight in point.weights.items())
    assert float(again.distance(parameters)) == float(point.distance(parameters)) > 0


def sharded(rank, world, folder):
    torch.set_num_threads(1)  # the parent's threads are not there after a fork
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        model = model_of()
        shard(model, init_device_mesh("cpu", (world,)))
        point, parameters = drifted(model)
        point = SwitchPoint.from_state(point.state(), parameters)
        distance = point.distance(parameters)
        distance.backward()
        gradients = {name: whole_factor(p.grad) for name, p in parameters.items()}
        torch.save((float(distance.detach()), gradients, point.state()), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked: a spawned one would import everything again")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*")
def test_sharded_over_ranks_it_is_that_of_one_process(tmp_path):
    on_ranks(sharded, (2, str(tmp_path)), 2)
    point, parameters = drifted(model_of())
    expected = point.distance(parameters)
    expected.backward()
    for rank in range(2):
        distance, gradients, state = torch.load(tmp_path / f"{rank}.pt")
        assert distance == pytest.approx(float(expected), rel=1e-5)
        for name, parameter in parameters.items():
            torch.testing.assert_close(gradients[name], parameter.grad)
            assert torch.equal(state[name].float(), point.weights[name])
