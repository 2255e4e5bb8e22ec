"""Whole weights sharded over real gloo ranks: the penalty, its gradients and the task's are those of one process."""

import pytest
import torch
from kit import models
from kit.ranks import all_ranks, on_ranks, sharded, trained
from torch.distributed.fsdp import fully_shard

from asft_lightning import AnchorSet, FullUpdatePenalty, Gram, Shrinkage, Subspace, UnpenalisedError, build_anchors
from asft_lightning.anchors import AnchorTerm, ModuleAnchor
from asft_lightning.functional import QuadraticForm
from asft_lightning.runtime.sharding import put_together
from asft_lightning.weights.full_training import train_weights

IDS = torch.randint(5, 200, (6, 12), generator=torch.Generator().manual_seed(7))
KINDS = {"chat": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}
CONFIGS = {"chat": {}, "gpt2": {"vocab_size": 262}}


def model_of(kind):
    model = models.tiny_model(kind, 1, **CONFIGS[kind])
    train_weights(model, KINDS[kind])
    return model


def two_sided(shapes):
    """Forms on both sides, and on the input side alone at another scale in each layer."""
    torch.manual_seed(11)

    def form(width, beta):
        return QuadraticForm(beta, torch.linalg.qr(torch.randn(width, 3))[0], torch.rand(3) * 4)

    both = {name: ModuleAnchor(out=form(d_out, 0.3), inp=form(d_in, 1.0)) for name, (d_out, d_in) in shapes.items()}
    alone = {
        name: ModuleAnchor(inp=form(d_in, 0.1), scale=0.1 * i, relative=True)
        for i, (name, (_, d_in)) in enumerate(shapes.items(), start=1)
    }
    return (AnchorTerm({"class": "Both"}, 0.5, both), AnchorTerm({"class": "Inputs"}, 2.0, alone))


def anchors_of(model, kind):
    states = [{k: v.clone() for k, v in models.tiny_model(kind, s, **CONFIGS[kind]).state_dict().items()} for s in (1, 2)]
    variants = [Gram(), Subspace(num_directions=5, weight=0.3), Shrinkage(weight=0.1)]
    built = build_anchors(model, *states, variants, progress=False)
    return AnchorSet(built.shapes, (*built.terms, *two_sided(built.shapes)))


def moved_step(model, penalty, ids):
    """The weights after a training that has happened, and a step's gradients; the penalty's value."""
    for i, parameter in enumerate(trained(model).values()):
        parameter.data.mul_(1 + 0.05 * (i + 1))
    value = penalty()
    (model(input_ids=ids, labels=ids).loss + 0.5 * value).backward()
    return float(value.detach())


def sharded_step(rank, world, kind):
    model = sharded(model_of(kind))
    penalty = FullUpdatePenalty(model, anchors_of(model_of(kind), kind))
    value = moved_step(model, penalty, IDS[rank::world])
    kept = sum(group.aligned.numel() for group in penalty.groups)
    return value, put_together({name: p.grad for name, p in trained(model).items()}), kept


@pytest.mark.parametrize(("kind", "world"), [("chat", 2), ("chat", 3), ("gpt2", 2)])
@pytest.mark.slow
def test_sharded_step_is_that_of_one_process(tmp_path, kind, world):
    """GPT-2's weights are transposed: there the rows that a rank has are inputs."""
    found = on_ranks(sharded_step, world, tmp_path, world, kind)
    model = model_of(kind)
    penalty = FullUpdatePenalty(model, anchors_of(model, kind))
    expected = moved_step(model, penalty, IDS)
    whole = sum(p.numel() for p in trained(model).values())

    for value, gradients, _ in found:
        assert value == pytest.approx(expected, rel=1e-5)
        for name, parameter in trained(model).items():
            assert float((gradients[name] - parameter.grad).norm()) <= 1e-5 * float(parameter.grad.norm()), name
    assert sum(kept for _, _, kept in found) == whole


def sharded_too_late(rank):
    model = model_of("chat")
    penalty = FullUpdatePenalty(model, anchors_of(model, "chat"))
    fully_shard(model, mesh=all_ranks())
    with pytest.raises(UnpenalisedError, match=r"must be bound after the model is sharded, .* then FullUpdatePenalty"):
        penalty()


def test_model_that_is_sharded_after_the_penalty_was_bound(tmp_path):
    on_ranks(sharded_too_late, 1, tmp_path)
