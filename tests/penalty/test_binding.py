import gc

import pytest
import torch
from kit.models import EXACT, TARGETS, TwoSided, bound, reference_penalty, tiny_pair, train_factors, with_lora
from kit.references import dense_gram
from peft import LoraConfig
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from asft_lightning.anchors import Gram, Shrinkage


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*layers\.1\..*(q|up)_proj"},
        {"target_modules": ["k_proj", "down_proj"], "layers_to_transform": [1]},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 3}},
        {"use_rslora": True, "init_lora_weights": "gaussian"},
    ],
    ids=["regex", "layers", "ranks", "rslora"],
)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_any_choice_of_layers_and_ranks(kind, settings):
    pair = tiny_pair(kind)
    model = with_lora(pair.aligned, **settings)
    assert bound(model, pair, [EXACT])().item() == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


@pytest.mark.parametrize("trainable", [["default"], ["second"], ["default", "second"]])
def test_every_trainable_adapter_is_penalised_and_no_frozen_one(trainable):
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "k_proj"]))
    model.base_model.set_adapter(["default", "second"])
    train_factors(model)
    model.base_model.set_adapter(trainable)
    penalty = bound(model, pair, [EXACT], resumed=True)
    expected = sum(reference_penalty(model, pair, dense_gram, adapter) for adapter in trainable)
    assert penalty().item() == pytest.approx(expected, rel=1e-5)


class Holder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = model


@pytest.mark.parametrize("wrap", [Holder, torch.compile], ids=["holder", "compiled"])
def test_a_wrapped_model_is_penalised_alike(wrap):
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    assert bound(wrap(model), pair, [EXACT])().item() == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


def test_anchors_have_a_file_of_their_own():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    penalty = bound(model, pair, [Gram(), Shrinkage()])
    assert penalty.state_dict() == {}
    assert list(penalty.parameters()) == []


def test_the_penalty_reads_the_factors_of_the_moment():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    penalty = bound(model, pair, [EXACT])
    before = penalty().item()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter *= 2
    assert penalty().item() == pytest.approx(4 * before, rel=1e-6)


class Kernels(TorchDispatchMode):
    """Counts what is computed or copied; views and detached aliases are neither."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not any(returned.alias_info for returned in func._schema.returns)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("anchors", [[Gram()], [EXACT, Shrinkage(weight=0.1), TwoSided()]], ids=["one", "sum"])
def test_the_number_of_kernels_does_not_grow_with_depth(anchors):
    counts = []
    for layers in (2, 8):
        pair = tiny_pair(layers=layers)
        model = with_lora(pair.aligned, target_modules=TARGETS["llama"])
        penalty = bound(model, pair, anchors)
        assert len(penalty.groups) == 3  # q, v and down: three shapes
        with Kernels() as kernels:
            penalty().backward()
        assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
        counts.append(kernels.count)
    assert counts[0] == counts[1] > 0


def test_steps_leave_nothing_behind():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    penalty, alive = bound(model, pair, [Gram(), Shrinkage()]), []
    for _ in range(6):
        penalty().backward()
        gc.collect()
        alive.append(sum(isinstance(found, torch.Tensor) for found in gc.get_objects()))
    assert len(set(alive[1:])) == 1
