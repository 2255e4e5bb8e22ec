from dataclasses import astuple

import pytest
import torch
from references import dense_gram, dense_penalty
from tiny_models import TARGETS, tiny_pair, with_lora

from asft_lightning.anchors import Gram, Shrinkage, Subspace, build_anchors, compare
from asft_lightning.errors import AnchorError


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
    found = compare(anchors, adapter)
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
    total = compare(anchors, adapter).total("Subspace")
    assert total.aligned + total.orthogonal == pytest.approx(total.size, rel=1e-6)
    assert total.penalty == pytest.approx(total.orthogonal, rel=1e-6) and total.aligned > 0


def test_the_table_ends_with_the_sums(case):
    pair, model, adapter = case
    anchors = build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False)
    found = compare(anchors, adapter)
    row = next(line for line in str(found).splitlines() if line.startswith("all ")).split()
    assert float(row[-1]) == pytest.approx(found.total("Gram").penalty, rel=0.01)


def test_layers_without_an_anchor_are_named(case):
    pair, _, adapter = case
    fewer = with_lora(tiny_pair().aligned, target_modules=["v_proj"])
    found = compare(build_anchors(fewer, pair.aligned, pair.base, [Gram()], progress=False), adapter)
    assert "4 layers of the adapter have no anchor" in str(found)


def test_an_adapter_that_lacks_a_layer_is_refused(case, tmp_path):
    pair, model, _ = case
    anchors = build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False)
    with_lora(tiny_pair().aligned, target_modules=["v_proj"]).save_pretrained(tmp_path / "fewer")
    with pytest.raises(AnchorError, match=r"q_proj: the adapter .*fewer must have every layer of the anchors, and lacks"):
        compare(anchors, tmp_path / "fewer")


def test_two_terms_of_one_class_are_both_shown(case):
    pair, model, adapter = case
    twice = [Gram(tolerance=0), Gram(weight=3.0, tolerance=0)]
    anchors = build_anchors(model, pair.aligned, pair.base, twice, progress=False)
    found = compare(anchors, adapter)
    assert len(found.parts) == 2 * len(anchors.shapes)
    assert found.total("Gram 1").penalty == pytest.approx(3 * found.total("Gram 0").penalty, rel=1e-6)
