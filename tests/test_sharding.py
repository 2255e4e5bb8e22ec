"""Sharded factors on real gloo ranks: the penalty, its gradients and the task loss are those of one process."""

import os
import time
from dataclasses import replace

import pytest
import tiny
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from asft_lightning import AnchorSet, DriftBudget, Gram, Shrinkage, Subspace, UnpenalisedError, UpdatePenalty, build_anchors
from asft_lightning.anchors.anchor import ModuleAnchor
from asft_lightning.anchors.anchor_set import AnchorTerm
from asft_lightning.functional import QuadraticForm
from asft_lightning.sharding import shard, whole_state

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked: a spawned one would import everything again"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*"),
]

IDS = torch.randint(5, 200, (6, 12), generator=torch.Generator().manual_seed(7))


def model_of(seed=3, r=3):
    """r 3 parts unevenly over two ranks; each rank draws its own factors, and the first one's count."""
    torch.manual_seed(seed)
    model = get_peft_model(tiny.tiny_model(1), LoraConfig(**tiny.LORA | {"r": r}, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def input_side(shapes):
    """What no anchor of the package has yet: forms on the input side, alone and with one on the output side."""
    torch.manual_seed(11)

    def form(width, beta):
        return QuadraticForm(beta, torch.linalg.qr(torch.randn(width, 3))[0], torch.rand(3) * 4)

    modules = {name: ModuleAnchor(out=form(d_out, 0.0), inp=form(d_in, 1.0)) for name, (d_out, d_in) in shapes.items()}
    alone = {name: ModuleAnchor(inp=form(d_in, 1.0)) for name, (_, d_in) in shapes.items()}
    return [AnchorTerm({"kind": "a"}, 0.5, modules), AnchorTerm({"kind": "b"}, 2.0, alone)]


def relative(shapes):
    """A relative change on the inputs, at another scale in each layer."""
    plain = input_side(shapes)[1].modules
    modules = {
        name: replace(anchor, scale=0.1 * i, relative=True) for i, (name, anchor) in enumerate(plain.items(), start=1)
    }
    return [AnchorTerm({"class": "Drift"}, 1.0, modules)]


def anchors_of(model, kind):
    states = [{k: v.clone() for k, v in tiny.tiny_model(seed).state_dict().items()} for seed in (1, 2)]
    built = {"gram": [Gram()], "sum": [Gram(), Subspace(num_directions=5, weight=0.3), Shrinkage(weight=0.1)]}
    anchors = build_anchors(model, *states, built.get(kind, [Gram()]), progress=False)
    own = {"input": input_side, "relative": relative}
    return anchors if kind in built else AnchorSet(anchors.shapes, tuple(own[kind](anchors.shapes)))


def step(model, penalty, ids):
    """Task loss and half the penalty, backwards; the penalty's value."""
    value = penalty()
    (model.get_base_model()(input_ids=ids, labels=ids).loss + 0.5 * value).backward()
    return float(value.detach())


def on_ranks(function, arguments, world):
    """Run ``function`` in forked processes; one that hangs fails the test."""
    context = multiprocessing.start_processes(function, arguments, nprocs=world, join=False, start_method="fork")
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the ranks did not end")


def sharded_step(rank, world, kind, folder):
    torch.set_num_threads(1)  # the parent's threads are not there after a fork
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        model = model_of(seed=3 + rank)
        anchors = anchors_of(model, kind)
        shard(model, init_device_mesh("cpu", (world,)))
        penalty = UpdatePenalty(model, anchors, resumed=True)
        value = step(model, penalty, IDS[rank::world])
        gradients = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.requires_grad}
        bytes_kept = sum(buffer.nbytes for name, buffer in penalty.named_buffers() if "directions" in name)
        torch.save((value, gradients, bytes_kept, whole_state(model)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", ["gram", "sum", "input", "relative"])
def test_sharded_step_is_that_of_one_process(tmp_path, kind, world):
    on_ranks(sharded_step, (world, kind, str(tmp_path)), world)
    model = model_of()
    penalty = UpdatePenalty(model, anchors_of(model, kind), resumed=True)
    expected = step(model, penalty, IDS)
    whole = sum(buffer.nbytes for name, buffer in penalty.named_buffers() if "directions" in name)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]

    for value, gradients, _, state in found:
        assert value == pytest.approx(expected, rel=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert float((gradients[name] - parameter.grad).norm()) <= 1e-5 * float(parameter.grad.norm()), name
                assert torch.equal(state[name], parameter.detach()), name
    shares = [kept for _, _, kept, _ in found]
    assert sum(shares) == whole
    assert max(shares) <= whole / world * 1.1  # 32 rows over 3 ranks: 11, 11, 10


LIMIT = 0.05


def stepped_and_held(model, budget, ids):
    """A step on the task and the drift, and back into the budget: the drift before and after each, and ν."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    drifts = [float(budget.drift().detach())]
    step(model, budget.penalty, ids)
    optimizer.step()
    drifts.append(float(budget.drift().detach()))
    nu = budget.hold()
    return [*drifts, float(budget.drift().detach()), nu]


def sharded_hold(rank, world, r, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        model = model_of(seed=3 + rank, r=r)
        anchors = anchors_of(model, "relative")
        shard(model, init_device_mesh("cpu", (world,)))
        budget = DriftBudget(model, anchors, LIMIT, resumed=True)
        found = [stepped_and_held(model, budget, IDS[rank::world]) for _ in range(2)]
        torch.save((found, whole_state(model)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("world", "r"), [(2, 3), (3, 3), (2, 1), (3, 2)])
def test_sharded_update_is_held_as_in_one_process(tmp_path, world, r):
    """Also where a rank has no row of A."""
    on_ranks(sharded_hold, (world, r, str(tmp_path)), world)
    model = model_of(r=r)
    budget = DriftBudget(model, anchors_of(model, "relative"), LIMIT, resumed=True)
    expected = [stepped_and_held(model, budget, IDS) for _ in range(2)]
    for _, after_step, held, nu in expected:
        assert after_step > LIMIT and held == pytest.approx(LIMIT, rel=1e-5) and nu > 0

    for rank in range(world):
        found, state = torch.load(tmp_path / f"{rank}.pt")
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert float((state[name] - parameter.detach()).norm()) <= 1e-5 * float(parameter.detach().norm()), name


def sharded_too_late(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=1)
    try:
        model = model_of()
        penalty = UpdatePenalty(model, anchors_of(model, "gram"), resumed=True)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UnpenalisedError, match=r"must be bound after the model is sharded, .* Call fully_shard first"):
            penalty()
    finally:
        dist.destroy_process_group()


def test_model_that_is_sharded_after_the_penalty_was_bound(tmp_path):
    on_ranks(sharded_too_late, (str(tmp_path),), 1)
