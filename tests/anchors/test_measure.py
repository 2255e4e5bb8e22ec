from copy import deepcopy
from dataclasses import astuple

import pytest
import torch
from kit.activations import adapted, probe, prompts, speaking_model
from kit.models import TARGETS, tiny_pair, with_lora
from kit.references import dense_gram, dense_penalty
from peft import IA3Config

from asft_lightning import UpdatePenalty
from asft_lightning.anchors import Activation, Gram, Shrinkage, Subspace, build_anchors, measure_adapter
from asft_lightning.errors import AnchorError, ConfigurationError
from asft_lightning.weights.adapter_factors import load_config, update_scaling
from asft_lightning.weights.targets import find_lora_factors


@pytest.fixture
def case(tmp_path):
    """(pair, model with a trained adapter, the adapter's folder)."""
    pair = tiny_pair(scale=0.3)
    model = with_lora(pair.aligned, target_modules=TARGETS["llama"], init_lora_weights=False)
    model.save_pretrained(tmp_path / "adapter")
    return pair, model, tmp_path / "adapter"


def factors_of(model, name):
    layer = model.get_submodule(f"base_model.model.{name}")
    return (getattr(layer, side)["default"].weight.detach().double() for side in ("lora_A", "lora_B"))


def test_parts_are_those_of_the_dense_maps(case):
    pair, model, adapter = case
    anchors = build_anchors(model, pair.aligned, pair.base, [Gram(weight=2.0, tolerance=0), Shrinkage()], progress=False)
    found = measure_adapter(anchors, adapter)
    assert len(found.parts) == 2 * len(anchors.shapes) and not found.unanchored
    for (name, label), parts in found.parts.items():
        a, b = factors_of(model, name)
        c = dense_gram(pair.direction(name)) if label == "Gram" else torch.zeros(len(b), len(b), dtype=torch.float64)
        size, aligned = (b @ a).square().sum(), (c @ b @ a).square().sum()
        orthogonal = dense_penalty(a, b, c)
        weight = 2.0 if label == "Gram" else 1.0
        expected = [float(x) for x in (size, aligned, orthogonal, weight * orthogonal)]
        assert list(astuple(parts)) == pytest.approx(expected, rel=1e-5)


def test_of_a_projector_the_parts_sum_to_the_whole(case):
    pair, model, adapter = case
    anchors = build_anchors(model, pair.aligned, pair.base, [Subspace(num_directions=2)], progress=False)
    total = measure_adapter(anchors, adapter).total("Subspace")
    assert total.aligned + total.orthogonal == pytest.approx(total.size, rel=1e-6)
    assert total.penalty == pytest.approx(total.orthogonal, rel=1e-6) and total.aligned > 0


def test_the_table_ends_with_the_sums(case):
    pair, model, adapter = case
    anchors = build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False)
    found = measure_adapter(anchors, adapter)
    row = next(line for line in str(found).splitlines() if line.startswith("all ")).split()
    assert float(row[-1]) == pytest.approx(found.total("Gram").penalty, rel=0.01)


def test_layers_without_an_anchor_are_named(case):
    pair, _, adapter = case
    fewer = with_lora(tiny_pair().aligned, target_modules=["v_proj"])
    found = measure_adapter(build_anchors(fewer, pair.aligned, pair.base, [Gram()], progress=False), adapter)
    assert "4 layers of the adapter have no anchor" in str(found)


def test_an_adapter_that_lacks_a_layer_is_refused(case, tmp_path):
    pair, model, _ = case
    anchors = build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False)
    with_lora(tiny_pair().aligned, target_modules=["v_proj"]).save_pretrained(tmp_path / "fewer")
    with pytest.raises(AnchorError, match=r"q_proj: the adapter .*fewer must have every layer of the anchors, and lacks"):
        measure_adapter(anchors, tmp_path / "fewer")


def test_two_terms_of_one_class_are_both_shown(case):
    pair, model, adapter = case
    twice = [Gram(tolerance=0), Gram(weight=3.0, tolerance=0)]
    anchors = build_anchors(model, pair.aligned, pair.base, twice, progress=False)
    found = measure_adapter(anchors, adapter)
    assert len(found.parts) == 2 * len(anchors.shapes)
    assert found.total("Gram 1").penalty == pytest.approx(3 * found.total("Gram 0").penalty, rel=1e-6)


PATTERNS = {
    "rank_pattern": {"q_proj": 8, "layers.1.self_attn.v_proj": 2},
    "alpha_pattern": {"down_proj": 5, r"layers\.[0]\..*v_proj": 3},
}


@pytest.mark.parametrize("rslora", [False, True])
def test_scaling_is_pefts_own(tmp_path, rslora):
    model = adapted(speaking_model(), use_rslora=rslora, **PATTERNS)
    model.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    factors = find_lora_factors(model)
    found = {f.target.name: update_scaling(config, f.target.name, len(f.a)) for f in factors}
    assert found == {f.target.name: f.scaling for f in factors} and len(set(found.values())) > 3


@pytest.mark.parametrize("rslora", [False, True])
def test_a_relative_change_is_that_of_the_true_update(tmp_path, rslora):
    plain = speaking_model()
    model = adapted(deepcopy(plain), use_rslora=rslora, **PATTERNS)
    model.save_pretrained(tmp_path / "adapter")
    anchors = [Activation(prompts=prompts(tmp_path), weight=2.0), Shrinkage()]
    built = build_anchors(model, plain, anchors=anchors, probe=probe(plain), progress=False)
    found = measure_adapter(built, tmp_path / "adapter")
    bare = sum(float((b @ a).square().sum()) for a, b in (factors_of(model, name) for name in built.shapes))
    assert found.total("Shrinkage").penalty == pytest.approx(bare, rel=1e-6)
    assert found.total("Activation").size == pytest.approx(bare, rel=1e-6)
    both = float(UpdatePenalty(model, built, resumed=True)())
    assert found.total("Activation").penalty + bare == pytest.approx(both, rel=1e-6)
    assert 1e-3 * bare < found.total("Activation").penalty < 1e3 * bare


def test_only_a_relative_change_needs_the_adapters_configuration(case, tmp_path):
    pair, model, adapter = case
    (adapter / "adapter_config.json").unlink()
    assert measure_adapter(build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False), adapter).parts

    plain = speaking_model()
    trained = adapted(deepcopy(plain))
    anchors = [Activation(prompts=prompts(tmp_path))]
    built = build_anchors(trained, plain, anchors=anchors, probe=probe(plain), progress=False)
    trained.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").unlink()
    with pytest.raises(ConfigurationError, match="other"):
        measure_adapter(built, tmp_path / "other")
    IA3Config().save_pretrained(tmp_path / "other")
    with pytest.raises(AnchorError, match=r"other must be a LoRA adapter, and its configuration is a IA3Config"):
        measure_adapter(built, tmp_path / "other")
