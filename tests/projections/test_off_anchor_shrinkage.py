"""OffAnchorShrinkage: every anchor's proximal map on a model, against a dense solve."""

import pytest
import torch
from kit.models import EXACT, TwoSided, factors_of, tiny_pair, train_factors, with_lora
from kit.references import dense_gram, dense_projector
from kit.tiny import write_adapter

from asft_lightning import AnchorError, ConfigurationError, Gram, Harmful, OffAnchorShrinkage, Shrinkage, Subspace
from asft_lightning.anchors import WeightPair
from asft_lightning.projections import project_model
from asft_lightning.weights.matrices import open_weights

ANCHORS = {
    "gram": (EXACT, dense_gram),
    "subspace": (Subspace(num_directions=2), lambda v: dense_projector(v, 2)),
    "shrinkage": (Shrinkage(weight=3.0), lambda v: torch.zeros(len(v), len(v), dtype=torch.float64)),
}


@pytest.fixture
def case():
    pair = tiny_pair(scale=0.3)
    model = with_lora(pair.aligned)
    train_factors(model)
    return model, pair, WeightPair(open_weights(pair.aligned), open_weights(pair.base))


@pytest.mark.parametrize("name", ANCHORS)
def test_every_layer_is_the_dense_solution(case, name):
    """(I + λ(I − C)ᵀ(I − C)) X = BA, solved densely."""
    model, pair, weights = case
    anchor, dense = ANCHORS[name]
    before = {name: (a.clone().double(), b.clone().double()) for name, (a, b) in factors_of(model).items()}
    found = project_model(model, OffAnchorShrinkage(2.0, anchor), weights)
    after = factors_of(model)
    for layer in found:
        a, b = before[layer.name]
        off = torch.eye(len(b), dtype=torch.float64) - dense(pair.direction(layer.name))
        expected = torch.linalg.solve(torch.eye(len(b), dtype=torch.float64) + 2 * anchor.weight * off.mT @ off, b @ a)
        torch.testing.assert_close(after[layer.name][1].double() @ a, expected, rtol=1e-5, atol=1e-5)
        assert layer.changed
        assert layer.kept == pytest.approx(float(expected.norm() / (b @ a).norm()))
        assert 0 < layer.cosine <= 1 + 1e-12


def test_of_a_projector_the_aligned_part_stays(case):
    """λ towards infinity leaves C·BA alone."""
    model, pair, weights = case
    name, (_, b) = next(iter(factors_of(model).items()))
    expected = dense_projector(pair.direction(name), 2) @ b.double()
    project_model(model, OffAnchorShrinkage(1e9, Subspace(num_directions=2)), weights)
    torch.testing.assert_close(factors_of(model)[name][1].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan")])
def test_strengths_that_cannot_be(strength):
    with pytest.raises(ConfigurationError, match=rf"finite strength above 0, got {strength}. 1 halves"):
        OffAnchorShrinkage(strength)


def test_anchors_without_a_closed_form(case):
    model, _, weights = case
    with pytest.raises(ConfigurationError, match=r"the output side alone, and TwoSided has one on the input side. Use Gram"):
        project_model(model, OffAnchorShrinkage(1.0, TwoSided()), weights)


def test_an_anchor_that_cannot_be_built_names_the_module(case):
    model, _, weights = case
    with pytest.raises(AnchorError, match=r"layers.0.self_attn.q_proj: Subspace needs 1 ≤ num_directions"):
        project_model(model, OffAnchorShrinkage(1.0, Subspace(num_directions=99)), weights)


def test_needs_and_settings(pretrained, tmp_path):
    harmful = OffAnchorShrinkage(2.0, Harmful(adapter=write_adapter(tmp_path / "harmful", pretrained)))
    assert harmful.needs == {"aligned"} and OffAnchorShrinkage().needs == {"aligned", "base"}
    assert harmful.settings()["anchor"]["class"] == "Harmful"
    assert OffAnchorShrinkage().settings() == {
        "class": "OffAnchorShrinkage", "strength": 1.0, "anchor": Gram().settings()
    }  # fmt: skip
