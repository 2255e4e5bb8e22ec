"""Sharded factors on real gloo ranks: the penalty, its gradients and the task loss are those of one process."""

from dataclasses import replace

import pytest
import torch
from kit import models
from kit.ranks import all_ranks, model_of, on_ranks, sharded, trained
from torch.distributed.fsdp import fully_shard

from asft_lightning import AnchorSet, DriftBudget, Gram, Shrinkage, Subspace, UnpenalisedError, UpdatePenalty, build_anchors
from asft_lightning.anchors.anchor import ModuleAnchor
from asft_lightning.anchors.anchor_set import AnchorTerm
from asft_lightning.functional import QuadraticForm
from asft_lightning.runtime.sharding import put_together

IDS = torch.randint(5, 200, (6, 12), generator=torch.Generator().manual_seed(7))


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
    states = [{k: v.clone() for k, v in models.tiny_model("chat", seed).state_dict().items()} for seed in (1, 2)]
    built = {"gram": [Gram()], "sum": [Gram(), Subspace(num_directions=5, weight=0.3), Shrinkage(weight=0.1)]}
    anchors = build_anchors(model, *states, built.get(kind, [Gram()]), progress=False)
    own = {"input": input_side, "relative": relative}
    return anchors if kind in built else AnchorSet(anchors.shapes, tuple(own[kind](anchors.shapes)))


def step(model, penalty, ids):
    """Task loss and half the penalty, backwards; the penalty's value."""
    value = penalty()
    (model.get_base_model()(input_ids=ids, labels=ids).loss + 0.5 * value).backward()
    return float(value.detach())


def sharded_step(rank, world, kind):
    model = model_of(seed=3 + rank)
    anchors = anchors_of(model, kind)
    penalty = UpdatePenalty(sharded(model), anchors, resumed=True)
    value = step(model, penalty, IDS[rank::world])
    gradients = {name: p.grad for name, p in trained(model).items()}
    bytes_kept = sum(buffer.nbytes for name, buffer in penalty.named_buffers() if "directions" in name)
    return value, put_together(gradients), bytes_kept, put_together(trained(model))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", ["gram", "sum", "input", "relative"])
@pytest.mark.slow
def test_sharded_step_is_that_of_one_process(tmp_path, kind, world):
    found = on_ranks(sharded_step, world, tmp_path, world, kind)
    model = model_of()
    penalty = UpdatePenalty(model, anchors_of(model, kind), resumed=True)
    expected = step(model, penalty, IDS)
    whole = sum(buffer.nbytes for name, buffer in penalty.named_buffers() if "directions" in name)

    for value, gradients, _, state in found:
        assert value == pytest.approx(expected, rel=1e-5)
        for name, parameter in trained(model).items():
            assert float((gradients[name] - parameter.grad).norm()) <= 1e-5 * float(parameter.grad.norm()), name
            assert torch.equal(state[name], parameter.detach()), name
    shares = [kept for _, _, kept, _ in found]
    assert sum(shares) == whole
    assert max(shares) <= whole / world * 1.1  # 32 rows over 3 ranks: 11, 11, 10


LIMIT = 0.05


def stepped_and_held(model, budget, ids):
    """A step on the task and the drift, and back into the budget: the drift before and after each, and ν."""
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    drifts = [float(budget.drift().detach())]
    step(model, budget.penalty, ids)
    optimizer.step()
    drifts.append(float(budget.drift().detach()))
    nu = budget.hold()
    return [*drifts, float(budget.drift().detach()), nu]


def sharded_hold(rank, world, r):
    model = model_of(seed=3 + rank, r=r)
    anchors = anchors_of(model, "relative")
    budget = DriftBudget(sharded(model), anchors, LIMIT, resumed=True)
    steps = [stepped_and_held(model, budget, IDS[rank::world]) for _ in range(2)]
    return steps, put_together(trained(model))


@pytest.mark.parametrize(("world", "r"), [(2, 3), (3, 3), (2, 1), (3, 2)])
@pytest.mark.slow
def test_sharded_update_is_held_as_in_one_process(tmp_path, world, r):
    """Also where a rank has no row of A."""
    found = on_ranks(sharded_hold, world, tmp_path, world, r)
    model = model_of(r=r)
    budget = DriftBudget(model, anchors_of(model, "relative"), LIMIT, resumed=True)
    expected = [stepped_and_held(model, budget, IDS) for _ in range(2)]
    for _, after_step, held, nu in expected:
        assert after_step > LIMIT and held == pytest.approx(LIMIT, rel=1e-5) and nu > 0

    for steps, state in found:
        for ours, theirs in zip(steps, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        for name, parameter in trained(model).items():
            assert float((state[name] - parameter.detach()).norm()) <= 1e-5 * float(parameter.detach().norm()), name


def sharded_too_late(rank):
    model = model_of()
    penalty = UpdatePenalty(model, anchors_of(model, "gram"), resumed=True)
    fully_shard(model, mesh=all_ranks())
    with pytest.raises(UnpenalisedError, match=r"must be bound after the model is sharded, .* Call fully_shard first"):
        penalty()


def test_model_that_is_sharded_after_the_penalty_was_bound(tmp_path):
    on_ranks(sharded_too_late, 1, tmp_path)
