"""Activation: E‖ΔW x‖² / E‖W x‖² of dense float64 matrices and of inputs collected one prompt at a time."""

import math
from copy import deepcopy

import pytest
import torch
from kit.activations import (
    adapted,
    inputs_of,
    probe,
    prompts,
    relative_change,
    sensitivity_of,
    speaking_model,
    with_noise,
)
from kit.models import TARGETS, factors_of

from asft_lightning import Activation, AnchorError, DataError, Template, UpdatePenalty, build_anchors
from asft_lightning.anchors import WeightPair
from asft_lightning.data import Source
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.targets import find_lora_factors


class Case:
    """A plain model, a trained adapter on a copy of it, prompts, and all that the dense formula needs."""

    def __init__(self, folder, kind="llama", seed=0, config=(), **lora):
        self.kind, self.plain = kind, speaking_model(kind, seed, **dict(config))
        self.model = adapted(deepcopy(self.plain), kind, **lora)
        self.source, self.probe = prompts(folder), probe(self.plain)
        self.names = list(factors_of(self.model))

    def weights(self):
        """{layer: W (d_out, d_in)}."""
        found = {name: self.plain.get_submodule(name).weight.detach().double() for name in self.names}
        return {name: w.mT if self.kind == "gpt2" else w for name, w in found.items()}

    def updates(self, scaling=2.0):
        """{layer: (α/r)BA}; α 8 of r 4 is what PEFT takes where nothing is said."""
        factors = {name: (a.double(), b.double()) for name, (a, b) in factors_of(self.model).items()}
        own = scaling if isinstance(scaling, dict) else dict.fromkeys(factors, scaling)
        return {name: own[name] * b @ a for name, (a, b) in factors.items()}

    def inputs(self, tokens="all"):
        return inputs_of(self.plain, self.probe.prompt_ids(self.source.load()), self.names, tokens)

    def built(self, **settings):
        anchor = Activation(prompts=self.source, **{"tolerance": 0.0, **settings})
        return build_anchors(self.model, self.plain, anchors=[anchor], probe=self.probe, progress=False)

    def penalty(self, scale_update=False, **settings):
        return UpdatePenalty(self.model, self.built(**settings), resumed=True, scale_update=scale_update)

    def dense(self, scaling=2.0, tokens="all", ridge=0.0):
        return self.unit() * relative_change(self.updates(scaling), self.weights(), self.inputs(tokens), ridge)

    def unit(self):
        """What the relative change is multiplied with."""
        return sensitivity_of(self.plain, self.probe.prompt_ids(self.source.load()), self.names)


@pytest.mark.parametrize("tokens", ["all", "last", "answer"])
@pytest.mark.parametrize("kind", TARGETS)
def test_penalty_is_the_relative_change(tmp_path, kind, tokens):
    case = Case(tmp_path, kind)
    assert float(case.penalty(tokens=tokens)()) == pytest.approx(float(case.dense(tokens=tokens)), rel=1e-5)


def test_two_layers_by_hand(tmp_path):
    """ΔW = W/10 changes each one's output by a tenth, whatever the inputs: two tenths in all, and (2/10)² = 0.04."""
    case = Case(tmp_path, r=16, lora_alpha=16, target_modules=["q_proj"])
    for factor in find_lora_factors(case.model):
        factor.a.data = torch.eye(16)
        factor.b.data = factor.layer.get_base_layer().weight.detach() / 10
    for settings in ({}, {"tokens": "last"}, {"ridge": 0.5}, {"weight": 3.0}):
        expected = 0.04 * case.unit() * settings.get("weight", 1)
        assert float(case.penalty(**settings)()) == pytest.approx(expected, rel=1e-5)
    assert float(case.penalty(tolerance=0.3, ridge=0.1)()) >= 0.04 * case.unit()


@pytest.mark.parametrize("scale_update", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_true_update_counts_where_alpha_and_rank_differ_by_layer(tmp_path, rslora, scale_update):
    patterns = {"rank_pattern": {"q_proj": 8, "layers.1.*.v_proj": 2}, "alpha_pattern": {"down_proj": 5}}
    case = Case(tmp_path, lora_alpha=12, use_rslora=rslora, **patterns)
    scaling = {}
    for name in case.names:
        rank = 8 if "q_proj" in name else 2 if name.endswith("1.self_attn.v_proj") else 4
        alpha = 5 if "down_proj" in name else 12
        scaling[name] = alpha / (math.sqrt(rank) if rslora else rank)
    assert len(set(scaling.values())) > 2
    expected = float(case.dense(scaling))
    assert float(case.penalty(scale_update)()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_ridge_is_white_noise_of_that_share(tmp_path, ridge):
    case = Case(tmp_path)
    assert float(case.penalty(ridge=ridge)()) == pytest.approx(float(case.dense(ridge=ridge)), rel=1e-5)


def between(case, anchors, ridge):
    """(lower, upper): the exact penalty, and the most that the docstring allows it to be."""
    lower = upper = 0.0
    weights, inputs, layers = case.weights(), case.inputs(), len(case.names)
    for name, update in case.updates().items():
        g, w = with_noise(inputs[name], ridge), weights[name]
        b = anchors.terms[0].modules[name].spectrum.error_bound * float(inputs[name].square().sum(1).mean())
        change, put_out = float((update @ g * update).sum()), float((w @ g * w).sum())
        lower += layers * change / put_out
        room = put_out - b * float(w.square().sum())
        upper += (change + b * float(update.square().sum())) / room * layers if room > 0 else math.inf
    return lower, upper


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize(("tolerance", "capacity"), [(0.001, 512), (0.05, 512), (0.0, 3), (0.5, 512), (0.01, 1)])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_is_dropped_never_lowers_the_penalty(tmp_path, kind, tolerance, capacity, ridge):
    case = Case(tmp_path, kind)
    anchors = case.built(tolerance=tolerance, max_directions=capacity, ridge=ridge)
    dropped = [anchor.spectrum.error_bound for anchor in anchors.terms[0].modules.values()]
    for seed in range(5):
        torch.manual_seed(seed)
        for factor in find_lora_factors(case.model):
            torch.nn.init.normal_(factor.b)
            if seed == 4:  # along what the inputs have most of, where nothing is lost of ΔW x
                u = anchors.terms[0].modules[factor.target.name].inp.directions
                factor.a.data = torch.zeros_like(factor.a).index_fill_(0, torch.tensor([0]), 1.0) * u[:, 0]
        lower, upper = (case.unit() * bound for bound in between(case, anchors, ridge))
        found = float(UpdatePenalty(case.model, anchors, resumed=True)())
        assert lower * (1 - 1e-5) <= found <= upper * (1 + 1e-5)
    assert max(dropped) > 1e-5


def test_tolerance_says_how_much_is_outside(tmp_path):
    case = Case(tmp_path)
    anchors = case.built(tolerance=0.05).terms[0].modules
    for name, x in case.inputs().items():
        spectrum = anchors[name].spectrum
        values = torch.linalg.eigvalsh(x.mT @ x / len(x)).flip(0)
        shares = (values / values.sum()).cumsum(0)
        assert spectrum.kept == int((shares < 0.95).sum()) + 1
        assert spectrum.energy == pytest.approx(float(shares[spectrum.kept - 1]), rel=1e-5)
        assert spectrum.largest == pytest.approx(float(shares[0]), rel=1e-5)
        assert spectrum.norm == pytest.approx(float(values.sum().sqrt()), rel=1e-5)
        assert spectrum.error_bound == pytest.approx(float(values[spectrum.kept] / values.sum()), rel=1e-3)


def test_alpha_and_b_may_share_a_factor_in_any_way(tmp_path):
    one, other = (Case(tmp_path, lora_alpha=alpha) for alpha in (8, 24))
    for ours, theirs in zip(find_lora_factors(one.model), find_lora_factors(other.model), strict=True):
        theirs.b.data = ours.b.data / 3
    assert float(other.penalty(ridge=0.1)()) == pytest.approx(float(one.penalty(ridge=0.1)()), rel=1e-5)


def test_a_layer_that_puts_out_more_may_change_by_more(tmp_path):
    """W ten times as large, and ΔW as well: the same change."""
    case = Case(tmp_path, target_modules=r"model\.layers\.0\.self_attn\.q_proj")
    before = float(case.penalty(ridge=0.1)()) / case.unit()
    case.plain.get_submodule(case.names[0]).weight.data *= 10
    assert float(case.penalty(ridge=0.1)()) / case.unit() == pytest.approx(before / 100, rel=1e-5)
    find_lora_factors(case.model)[0].b.data *= 10
    assert float(case.penalty(ridge=0.1)()) / case.unit() == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"ridge": 0.2}, {"tokens": "last"}], ids=str)
def test_gradient_is_that_of_the_dense_formula(tmp_path, settings):
    case = Case(tmp_path)
    factors = find_lora_factors(case.model)
    found = torch.autograd.grad(case.penalty(**settings)(), [p for f in factors for p in (f.a, f.b)])

    leaves = [(f.a.detach().double().requires_grad_(), f.b.detach().double().requires_grad_()) for f in factors]
    updates = {f.target.name: 2.0 * b @ a for f, (a, b) in zip(factors, leaves, strict=True)}
    inputs = case.inputs(settings.get("tokens", "all"))
    exact = case.unit() * relative_change(updates, case.weights(), inputs, settings.get("ridge", 0.0))
    expected = torch.autograd.grad(exact, [p for pair in leaves for p in pair])
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours.double() - theirs).norm()) < 1e-5 * float(theirs.norm())


def test_only_the_first_prompts_count(tmp_path):
    case = Case(tmp_path)
    few = case.built(num_prompts=2)
    case.source = prompts(tmp_path, 2)
    assert few.terms[0].prompts == case.built().terms[0].prompts
    assert float(UpdatePenalty(case.model, few, resumed=True)()) == pytest.approx(float(case.dense()), rel=1e-5)


def test_answers_of_the_prompts_are_not_looked_at(tmp_path):
    case = Case(tmp_path)
    expected = case.built().terms[0].modules
    case.source = Source(case.source.path, answer="{instruction}")
    for name, anchor in case.built().terms[0].modules.items():
        assert torch.equal(anchor.inp.directions, expected[name].inp.directions)


@pytest.mark.parametrize("shares", [[0.1, 0.1], [0.1, -0.3], [0.2, 0.0]])
def test_root_is_no_less_than_what_the_layers_changes_add_up_to(tmp_path, shares):
    case = Case(tmp_path, r=16, lora_alpha=16, target_modules=["q_proj"])
    for share, factor in zip(shares, find_lora_factors(case.model), strict=True):
        factor.a.data = torch.eye(16)
        factor.b.data = share * factor.layer.get_base_layer().weight.detach()
    root, total = math.sqrt(float(case.penalty()()) / case.unit()), sum(map(abs, shares))
    assert root >= total * (1 - 1e-5)
    assert root == pytest.approx((2 * sum(share**2 for share in shares)) ** 0.5, rel=1e-5)


def test_batches_change_nothing_but_rounding(tmp_path):
    case = Case(tmp_path)
    one, all_at_once = (float(case.penalty(batch_size=size)()) for size in (1, 64))
    assert one == pytest.approx(all_at_once, rel=1e-5)


def test_one_layer_alone_counts_as_one_of_one(tmp_path):
    case = Case(tmp_path)
    target = find_lora_factors(case.model)[0].target
    alone = Activation(prompts=case.source, tolerance=0.0).build(
        target, WeightPair(open_weights(case.plain), None, probe=case.probe)
    )
    among, unit = case.built().terms[0].modules[target.name], case.unit()
    count, case.names = len(case.names), [target.name]
    assert among.scale / (count * unit) == pytest.approx(alone.scale / case.unit(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prompts": 0}, r"num_prompts, max_directions and batch_size of 1 or more, .*got 0, 512, 8"),
        ({"max_directions": 0}, r"num_prompts, max_directions and batch_size of 1 or more"),
        ({"batch_size": -1}, r"num_prompts, max_directions and batch_size of 1 or more"),
        ({"ridge": -0.1}, r"ridge ≥ 0"),
        ({"ridge": float("nan")}, r"ridge ≥ 0 .*nan"),
        ({"ridge": float("inf")}, r"ridge ≥ 0 .*inf"),
        ({"tolerance": 1.0}, r"0 ≤ tolerance < 1"),
        ({"tolerance": float("nan")}, r"0 ≤ tolerance < 1"),
        ({"weight": 0.0}, r"Activation needs a weight above 0"),
        ({"tokens": "first"}, r"tokens must be one of all, last, answer, got 'first'"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(AnchorError, match=message):
        Activation(**settings)


def test_prompts_are_needed(tmp_path):
    case = Case(tmp_path)
    with pytest.raises(AnchorError, match=r"Activation needs `prompts`, a source of unsafe prompts, e\.g\."):
        build_anchors(case.model, case.plain, anchors=[Activation()], probe=case.probe, progress=False)
    (tmp_path / "empty.jsonl").touch()
    empty = Activation(prompts=Source(str(tmp_path / "empty.jsonl")))
    with pytest.raises(DataError, match=r"empty\.jsonl must hold rows, and has none"):
        build_anchors(case.model, case.plain, anchors=[empty], probe=case.probe, progress=False)


def test_a_model_to_run_is_needed(tmp_path):
    case = Case(tmp_path)
    with pytest.raises(AnchorError, match=r"Activation runs the aligned model, and there is none to run\. Pass probe="):
        build_anchors(case.model, case.plain, anchors=[Activation(prompts=case.source)], progress=False)


def test_the_aligned_weights_are_needed(tmp_path):
    case = Case(tmp_path)
    with pytest.raises(AnchorError, match=r"measures against the aligned model's weights, and `aligned` is not given"):
        build_anchors(case.model, anchors=[Activation(prompts=case.source)], probe=case.probe, progress=False)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_layer_without_a_weight_is_named(tmp_path, ridge):
    case = Case(tmp_path)
    case.plain.model.layers[1].self_attn.v_proj.weight.data.zero_()
    with pytest.raises(AnchorError, match=r"layers\.1\.self_attn\.v_proj: a change is measured against .*weight is 0"):
        case.built(ridge=ridge)


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_a_layer_without_inputs_is_named(tmp_path, tolerance):
    case = Case(tmp_path)
    case.plain.model.layers[1].mlp.up_proj.weight.data.zero_()
    with pytest.raises(AnchorError, match=r"layers\.1\.mlp\.down_proj: .*its inputs are all 0"):
        case.built(tolerance=tolerance)


def test_template_matters(tmp_path):
    case = Case(tmp_path)
    plain = case.built().terms[0].modules["model.layers.1.mlp.down_proj"]
    case.probe = probe(case.plain, template=Template(system="Be good."))
    other = case.built().terms[0].modules["model.layers.1.mlp.down_proj"]
    assert plain.spectrum.norm != pytest.approx(other.spectrum.norm, rel=1e-4)
    assert float(case.penalty()()) == pytest.approx(float(case.dense()), rel=1e-5)


def test_target_of_another_shape_than_the_weight_is_named(tmp_path):
    case = Case(tmp_path)
    narrower = dict(case.plain.state_dict())
    name = "model.layers.0.self_attn.q_proj.weight"
    narrower[name] = narrower[name][:8]
    with pytest.raises(AnchorError, match=r"layers\.0\.self_attn\.q_proj: .* must have the layer's shape \(16, 16\)"):
        build_anchors(case.model, narrower, anchors=[Activation(prompts=case.source)], probe=case.probe, progress=False)
