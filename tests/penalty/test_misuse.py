"""Nothing trains without its penalty: every way to do so is an error with the module, the rule and the remedy."""

import logging
from dataclasses import replace

import pytest
from kit.models import Pair, reference_penalty, tiny_pair, train_factors, with_lora
from kit.references import dense_gram

from asft_lightning import UpdatePenalty
from asft_lightning.anchors import AnchorSet, Gram, build_anchors
from asft_lightning.errors import UnpenalisedError


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair("qwen2")


def anchors_for(model, pair) -> AnchorSet:
    return build_anchors(model, pair.aligned, pair.base, [Gram(tolerance=0)], progress=False)


def bind(model, pair, **settings) -> UpdatePenalty:
    return UpdatePenalty(model, anchors_for(model, pair), **settings)


def test_a_layer_without_an_anchor(pair):
    anchors = anchors_for(with_lora(pair.aligned, target_modules=["q_proj"]), pair)
    expected = r"layers\.0\.self_attn\.v_proj: anchors and .* same modules, but 2 layer.* no anchor\. Build the anchors"
    with pytest.raises(UnpenalisedError, match=expected):
        UpdatePenalty(with_lora(pair.aligned), anchors)


def test_an_anchor_without_a_layer(pair):
    anchors = anchors_for(with_lora(pair.aligned), pair)
    expected = r"layers\.0\.self_attn\.q_proj: anchors and .* same modules, but 3 anchor.* no layer\. Build the anchors"
    with pytest.raises(UnpenalisedError, match=expected):
        UpdatePenalty(with_lora(pair.aligned, target_modules=["v_proj"], layers_to_transform=[1]), anchors)


def test_an_anchor_of_another_shape(pair):
    model = with_lora(pair.aligned)
    anchors = anchors_for(model, pair)
    other = replace(anchors, shapes={**anchors.shapes, "model.layers.1.self_attn.v_proj": (16, 16)})
    expected = r"layers\.1\.self_attn\.v_proj: .* its anchor is for \(16, 16\), it is \(8, 16\)\. Build the anchors"
    with pytest.raises(UnpenalisedError, match=expected):
        UpdatePenalty(model, other)


def test_a_model_whose_adapters_are_all_frozen(pair):
    model = with_lora(pair.aligned)
    anchors = anchors_for(model, pair)
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(UnpenalisedError, match=r"trainable LoRA layers, and .* has none.*is_trainable=True"):
        UpdatePenalty(model, anchors)


def test_a_model_without_lora(pair):
    with pytest.raises(UnpenalisedError, match=r"Qwen2ForCausalLM has none\. Wrap it with peft\.get_peft_model"):
        UpdatePenalty(pair.aligned, anchors_for(with_lora(pair.aligned), pair))


ALSO_TRAINED = {
    "all biases": ({"bias": "all"}, r"q_proj\.base_layer\.bias"),
    "LoRA layers' biases": ({"bias": "lora_only"}, r"q_proj\.base_layer\.bias"),
    "bias of B": ({"lora_bias": True}, r"q_proj\.lora_B\.default\.bias"),
    "a head": ({"modules_to_save": ["lm_head"]}, r"lm_head\.modules_to_save\.default\.weight"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trainable_tokens_delta"),
}


@pytest.mark.parametrize("case", ALSO_TRAINED)
def test_other_trainable_parameters_are_refused(pair, case):
    settings, name = ALSO_TRAINED[case]
    expected = rf"must be exactly the penalised LoRA factors, but .*{name}.*Freeze them .*allow_unpenalised=True"
    with pytest.raises(UnpenalisedError, match=expected):
        bind(with_lora(pair.aligned, **settings), pair)


@pytest.mark.parametrize("case", ALSO_TRAINED)
def test_other_trainable_parameters_pass_on_demand_and_are_logged(pair, case, caplog):
    settings, _ = ALSO_TRAINED[case]
    model = with_lora(pair.aligned, **settings)
    with caplog.at_level(logging.WARNING, logger="asft_lightning"):
        penalty = bind(model, pair, allow_unpenalised=True)
    factors = (".lora_A.default.weight", ".lora_B.default.weight")
    others = [name for name, p in model.named_parameters() if p.requires_grad and not name.endswith(factors)]
    assert others and penalty.unpenalised == others
    assert "trained without a penalty" in caplog.text and all(name in caplog.text for name in others)
    train_factors(model)
    assert penalty().item() == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


def test_nothing_is_logged_where_all_is_penalised(pair, caplog):
    assert bind(with_lora(pair.aligned), pair, allow_unpenalised=True).unpenalised == []
    assert caplog.text == ""


@pytest.mark.parametrize("start", [False, "orthogonal"])
def test_a_start_that_is_not_zero_is_refused(pair, start):
    model = with_lora(pair.aligned, init_lora_weights=start)
    expected = r"layers\.0\.self_attn\.q_proj: the update B·A must be 0 .* adapter 'default' is not\. Use .* resumed=True"
    with pytest.raises(UnpenalisedError, match=expected):
        bind(model, pair)


@pytest.mark.parametrize("start", [True, "gaussian"])
def test_starts_at_zero_pass(pair, start):
    assert bind(with_lora(pair.aligned, init_lora_weights=start), pair)() == 0


def test_a_resumed_adapter_may_start_anywhere(pair):
    model = with_lora(pair.aligned)
    train_factors(model)
    assert bind(model, pair, resumed=True)().item() == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_resuming_excuses_no_start_that_changes_the_base_weight(pair, start):
    anchors = anchors_for(with_lora(pair.aligned), pair)
    with pytest.raises(UnpenalisedError, match=rf"q_proj: .*init_lora_weights='{start}'.*Use plain LoRA"):
        UpdatePenalty(with_lora(pair.aligned, init_lora_weights=start), anchors, resumed=True, allow_unpenalised=True)
