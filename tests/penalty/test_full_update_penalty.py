"""FullUpdatePenalty on real models: the dense value and gradients, and nothing that trains without it."""

import logging
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from kit.models import EXACT, TARGETS, TwoSided, tiny_model, tiny_pair, with_lora
from kit.references import dense_gram, dense_projector, orthonormal, relative_error

from asft_lightning import AnchorError, FullUpdatePenalty, Gram, Shrinkage, Subspace, UnpenalisedError, build_anchors
from asft_lightning.penalty import weight_groups
from asft_lightning.weights.full_training import train_weights

DTYPES = [torch.float32, torch.bfloat16]


def trainable(model, *targets, also=()):
    model = deepcopy(model)
    train_weights(model, list(targets) or "all-linear", also)
    return model


def bound(model, pair, anchors, **settings):
    """The penalty of the aligned model, whose trained weights then move."""
    penalty = FullUpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, anchors, progress=False), **settings)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn_like(parameter)
    return penalty


def dense_value_and_gradients(model, pair, dense_map, dense_input=lambda d: torch.eye(d, dtype=torch.float64)):
    """Σ ‖(I − C) ΔW N‖², dense and in float64, and its gradients by the parameters' names."""
    weights = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for name, weight in weights.items():
        update = weight - pair.aligned.get_parameter(name).detach().double()
        update = update.mT if pair.kind == "gpt2" else update
        v = pair.direction(name.removesuffix(".weight"))
        rest = (torch.eye(len(v), dtype=torch.float64) - dense_map(v)) @ update
        total = total + (rest @ dense_input(update.shape[1]) * rest).sum()
    return total.detach(), dict(zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True))


def two_sided_input(d):
    u = orthonormal(d, 3)
    return torch.eye(d, dtype=torch.float64) + u @ torch.diag(torch.tensor([8.0, 3.0, -1.0]).double()) @ u.T


VARIANTS = {
    "gram": (EXACT, dense_gram, {}),
    "subspace": (Subspace(num_directions=2), lambda v: dense_projector(v, 2), {}),
    "shrinkage": (Shrinkage(), lambda v: torch.zeros(len(v), len(v), dtype=torch.float64), {}),
    "both sides": (TwoSided(), dense_gram, {"dense_input": two_sided_input}),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradients_are_the_dense_ones(kind, variant):
    """GPT-2 keeps its weights transposed."""
    anchor, dense_map, inputs = VARIANTS[variant]
    pair = tiny_pair(kind)
    model = trainable(pair.aligned, *TARGETS[kind])
    value = bound(model, pair, [anchor])()
    value.backward()
    expected, gradients = dense_value_and_gradients(model, pair, dense_map, **inputs)
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.keys() == gradients.keys() and len(found) >= 2 * len(TARGETS[kind])
    assert max(relative_error(found[name], gradients[name]) for name in found) < 1e-5


def test_a_sum_is_weighted():
    pair = tiny_pair()
    model = trainable(pair.aligned)
    value = bound(model, pair, [Gram(tolerance=0, weight=0.3), Shrinkage(weight=2.0)])()
    terms = {0.3: VARIANTS["gram"], 2.0: VARIANTS["shrinkage"]}
    expected = sum(w * dense_value_and_gradients(model, pair, dense_map)[0] for w, (_, dense_map, _) in terms.items())
    assert value.item() == pytest.approx(float(expected), rel=1e-5)


def test_at_the_start_it_is_zero_without_a_gradient():
    pair = tiny_pair()
    model = trainable(pair.aligned)
    penalty = FullUpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False))()
    penalty.backward()
    assert penalty == 0
    assert not any(p.grad.any() for p in model.parameters() if p.requires_grad)


def test_layers_of_one_shape_share_products_of_bounded_size(monkeypatch):
    pair = tiny_pair(layers=4)
    model = trainable(pair.aligned, "q_proj", "o_proj")
    whole = bound(model, pair, [EXACT])
    monkeypatch.setattr(weight_groups, "_MOST_ELEMENTS", 3 * 16 * 16)
    model = trainable(pair.aligned, "q_proj", "o_proj")
    parted = bound(model, pair, [EXACT])
    assert [len(group.aligned) for group in whole.groups] == [8]
    assert [len(group.aligned) for group in parted.groups] == [3, 3, 2]
    assert parted().item() == pytest.approx(whole().item(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_aligned_weights_are_kept_exactly_in_as_few_bytes_as_they_need(dtype):
    model = trainable(tiny_model().to(dtype).float(), "q_proj")
    (group,) = FullUpdatePenalty(model, build_anchors(model, anchors=[Shrinkage()], progress=False)).groups
    assert group.aligned.dtype == dtype
    for found, layer in zip(group.aligned, model.model.layers, strict=True):
        assert torch.equal(found.float(), layer.self_attn.q_proj.weight)
    assert {group.aligned.dtype, group.bfloat16().aligned.dtype} == {dtype}


def test_what_is_on_the_host_stays_there():
    pair = tiny_pair()
    model = trainable(pair.aligned)
    on_host = {"anchors_on_host": True, "aligned_on_host": True}
    there = FullUpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False), **on_host)
    here = bound(model, pair, [Gram()])
    assert torch.equal(there(), here())
    kept = {"cpu": there, "meta": here}
    for device, penalty in kept.items():
        groups = penalty.to("meta").groups
        assert {t.device.type for g in groups for t in (g.aligned, g.terms[0].out_directions)} == {device}
    assert {group.terms[0].weights.device.type for group in there.groups} == {"meta"}


@pytest.mark.parametrize("also", ["norm", "embed_tokens", "bias"])
def test_other_trainable_parameters_are_refused_or_named(also, caplog):
    pair = tiny_pair("qwen2")
    model = trainable(pair.aligned, "q_proj", also=[also])
    anchors = build_anchors(model, pair.aligned, pair.base, [EXACT], progress=False)
    expected = (
        rf"must be exactly the penalised weight matrices, but .*{also}.*leave them out of also_train.*allow_unpenalised"
    )
    with pytest.raises(UnpenalisedError, match=expected):
        FullUpdatePenalty(model, anchors)
    with caplog.at_level(logging.WARNING, logger="asft_lightning"):
        penalty = FullUpdatePenalty(model, anchors, allow_unpenalised=True)
    others = [name for name, p in model.named_parameters() if p.requires_grad and "q_proj.weight" not in name]
    assert penalty.unpenalised == others and all(name in caplog.text for name in others)


def test_embeddings_that_a_head_is_tied_to_are_no_weight_matrix():
    model = trainable(tiny_model("qwen2", tie_word_embeddings=True), "q_proj", also=["embed_tokens"])
    anchors = build_anchors(model, anchors=[Shrinkage()], progress=False)
    assert all("q_proj" in name for name in anchors.shapes)
    with pytest.raises(UnpenalisedError, match=r"but model\.embed_tokens\.weight would be trained as well"):
        FullUpdatePenalty(model, anchors)


def test_anchors_and_trained_weights_must_be_the_same():
    model, wider = trainable(tiny_model(), "q_proj"), trainable(tiny_model(), "q_proj", "v_proj")
    anchors = build_anchors(model, anchors=[Shrinkage()], progress=False)
    with pytest.raises(
        UnpenalisedError, match=r"v_proj: anchors and trained weight matrices .* no anchor\. Build the anchors"
    ):
        FullUpdatePenalty(wider, anchors)
    with pytest.raises(
        UnpenalisedError, match=r"v_proj: anchors and trained weight matrices .* no layer\. Build the anchors"
    ):
        FullUpdatePenalty(model, build_anchors(wider, anchors=[Shrinkage()], progress=False))
    other = replace(anchors, shapes={**anchors.shapes, "model.layers.1.self_attn.q_proj": (8, 16)})
    with pytest.raises(UnpenalisedError, match=r"its anchor is for \(8, 16\), it is \(16, 16\)"):
        FullUpdatePenalty(model, other)


def test_a_model_with_lora_is_for_the_other_penalty():
    model = with_lora(tiny_model())
    anchors = build_anchors(model, anchors=[Shrinkage()], progress=False)
    with pytest.raises(UnpenalisedError, match=r"q_proj: weights .* must carry no LoRA.*Use UpdatePenalty, or merge"):
        FullUpdatePenalty(model, anchors)


def test_no_direction_no_anchor():
    pair = tiny_pair()
    model = trainable(pair.aligned, "q_proj")
    with pytest.raises(AnchorError, match=r"V = W_aligned − W_base must not be 0.*name one checkpoint twice"):
        build_anchors(model, pair.aligned, pair.aligned, [Gram()], progress=False)
    spoilt = deepcopy(pair.base)
    spoilt.model.layers[1].self_attn.q_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(AnchorError, match=r"layers\.1\.self_attn\.q_proj: weights must be finite"):
        build_anchors(model, pair.aligned, spoilt, [Gram()], progress=False)
