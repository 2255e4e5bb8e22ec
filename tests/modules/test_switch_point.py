"""SwitchPoint: distance and gradient by hand, and on real gloo ranks with sharded factors those of one process."""

import pytest
import torch
from kit.ranks import model_of, on_ranks, sharded, trained

from asft_lightning.modules.switch_point import SwitchPoint
from asft_lightning.runtime.sharding import put_together


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


def measured(rank):
    point, parameters = drifted(sharded(model_of()))
    point = SwitchPoint.from_state(point.state(), parameters)
    distance = point.distance(parameters)
    distance.backward()
    return float(distance.detach()), put_together({name: p.grad for name, p in parameters.items()}), point.state()


def test_sharded_over_ranks_it_is_that_of_one_process(tmp_path):
    found = on_ranks(measured, 2, tmp_path)
    point, parameters = drifted(model_of())
    expected = point.distance(parameters)
    expected.backward()
    for distance, gradients, state in found:
        assert distance == pytest.approx(float(expected), rel=1e-5)
        for name, parameter in parameters.items():
            torch.testing.assert_close(gradients[name], parameter.grad)
            assert torch.equal(state[name].float(), point.weights[name])
