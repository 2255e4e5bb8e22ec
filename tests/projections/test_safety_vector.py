"""SafetyVector (RESTA), against dense float64 arithmetic on the weights."""

import pytest
import torch
from kit import tiny
from kit.models import TARGETS, factors_of, tiny_pair, train_factors, with_lora
from peft import PeftModel

from asft_lightning import ConfigurationError, SafetyVector
from asft_lightning.anchors import WeightPair
from asft_lightning.projections import project_model
from asft_lightning.weights.matrices import open_weights

SCALING = 2.0
"""α/r of the tiny adapters."""


def dense(model):
    return {name: b.detach().double() @ a.detach().double() for name, (a, b) in factors_of(model).items()}


def closest(matrix, rank):
    u, sigma, v = torch.linalg.svd(matrix)
    return (u[:, :rank] * sigma[:rank]) @ v[:rank]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_way_from_base_to_aligned_is_added(kind):
    """α/r·B'A' is α/r·BA + γV, at the adapter's rank; GPT-2's weights are transposed."""
    pair = tiny_pair(kind, scale=0.3)
    model = with_lora(pair.aligned, target_modules=TARGETS[kind], r=4, lora_alpha=8)
    train_factors(model)
    before = dense(model)
    found = project_model(model, SafetyVector(0.7), WeightPair(open_weights(pair.aligned), open_weights(pair.base)))
    for layer in found:
        meant = SCALING * before[layer.name] + 0.7 * pair.direction(layer.name).double()
        after = SCALING * dense(model)[layer.name]
        torch.testing.assert_close(after, closest(meant, 4), rtol=1e-5, atol=1e-5)
        assert layer.changed
        assert layer.error == pytest.approx(float((meant - after).norm() / meant.norm()), abs=1e-5)
        assert layer.error > 0.01  # V is of full rank


def test_a_harmful_adapter_is_the_way_back(pretrained, tmp_path):
    """Of rank 2 and α 6: α/r·BA − γ·3·B_h A_h; neither checkpoint is read."""
    harmful = tiny.write_adapter(tmp_path / "harmful", pretrained, seed=1, r=2, lora_alpha=6)
    away = PeftModel.from_pretrained(pretrained.load_model(), harmful, is_trainable=True)
    model = PeftModel.from_pretrained(
        pretrained.load_model(), tiny.write_adapter(tmp_path / "adapter", pretrained), is_trainable=True
    )
    before, of_harmful, method = dense(model), dense(away), SafetyVector(0.5, harmful)
    weights = method.open(pretrained)
    assert weights.aligned is None and weights.base is None
    for layer in project_model(model, method, weights):
        meant = SCALING * before[layer.name] - 0.5 * 3.0 * of_harmful[layer.name]
        torch.testing.assert_close(SCALING * dense(model)[layer.name], closest(meant, 4), rtol=1e-5, atol=1e-5)


def test_with_the_harmful_update_itself_nothing_is_left(pretrained, tmp_path):
    """γ = 1 of an adapter's own update."""
    harmful = tiny.write_adapter(tmp_path / "harmful", pretrained)
    model = PeftModel.from_pretrained(pretrained.load_model(), harmful, is_trainable=True)
    method = SafetyVector(1.0, harmful)
    project_model(model, method, method.open(pretrained))
    assert all(float(update.norm()) < 1e-6 for update in dense(model).values())


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan")])
def test_strengths_that_cannot_be(strength):
    with pytest.raises(ConfigurationError, match=rf"finite strength above 0, got {strength}. 1 adds the whole way back"):
        SafetyVector(strength)


def test_needs():
    assert SafetyVector().needs == {"aligned", "base"} and SafetyVector(adapter="x").needs == frozenset()
    assert SafetyVector(0.5, "x").settings() == {"class": "SafetyVector", "strength": 0.5, "adapter": "x"}
