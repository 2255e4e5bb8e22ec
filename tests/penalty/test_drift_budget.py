"""DriftBudget against the nearest update within the limit, solved densely and in float64."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from kit.activations import adapted, inputs_of, probe, prompts, relative_change, sensitivity_of, speaking_model
from kit.models import TARGETS, factors_of, tiny_model, train_factors, with_lora
from kit.references import orthonormal, randn

from asft_lightning import (
    Activation,
    AnchorSet,
    ConfigurationError,
    DriftBudget,
    Gram,
    Shrinkage,
    UnpenalisedError,
    build_anchors,
)
from asft_lightning.anchors import AnchorTerm, ModuleAnchor
from asft_lightning.functional import QuadraticForm
from asft_lightning.weights.targets import find_lora_factors

UNEVEN = {"rank_pattern": {"v_proj": 2, "layers.0.mlp.down_proj": 6}, "alpha_pattern": {"q_proj": 3}}
EYE = {d: torch.eye(d, dtype=torch.float64) for d in (16, 24)}


def model_of(dtype=torch.float32, **lora):
    """Layers of shapes (16, 16), (8, 16) and (16, 24), whose adapter has been trained."""
    model = with_lora(tiny_model(), target_modules=TARGETS["llama"], **UNEVEN | lora)
    train_factors(model)
    for factor in find_lora_factors(model):
        for parameter in (factor.a, factor.b):
            parameter.data = parameter.data.to(dtype)
    return model


def anchors_of(model, beta=0.0, directions=5, spread=1.0):
    """Relative forms on the inputs that differ from layer to layer, in exact float64."""
    modules, shapes = {}, {}
    for i, factor in enumerate(find_lora_factors(model)):
        name, (d_out, d_in) = factor.target.name, factor.target.shape
        k = min(directions + i % 3, d_in)
        weights = beta + 10 ** (spread * randn(k, seed=i).double())
        form = QuadraticForm(beta, orthonormal(d_in, k, seed=i), weights)
        modules[name] = ModuleAnchor(inp=form, scale=0.1 * (i + 1), relative=True)
        shapes[name] = (d_out, d_in)
    return AnchorSet(shapes, (AnchorTerm({"class": "Drift"}, 1.0, modules),))


def updates(model):
    """{layer: ΔW = (α/r)BA} in float64."""
    found = {}
    for factor in find_lora_factors(model):
        found[factor.target.name] = factor.scaling * factor.b.detach().double() @ factor.a.detach().double()
    return found


def metrics(anchors):
    """{layer: M (d_in, d_in)}, with the layer's scale."""
    return {n: a.scale * a.inp.to(torch.float64).dense() for n, a in anchors.terms[0].modules.items()}


def drift(changes, costs):
    return float(sum((w @ costs[name] * w).sum() for name, w in changes.items())) ** 0.5


def distance(one, other):
    return float(sum((one[name] - other[name]).square().sum() for name in one)) ** 0.5


def shrunk(changes, costs, nu):
    return {n: torch.linalg.solve(EYE[len(costs[n])] + nu * costs[n], w.mT).mT for n, w in changes.items()}


def nearest(changes, costs, limit):
    """ΔW (I + νM)⁻¹ with the ν at which the drift is the limit, by bisection."""
    low, high = 0.0, 1.0
    while drift(shrunk(changes, costs, high), costs) > limit:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if drift(shrunk(changes, costs, middle), costs) > limit else (low, middle)
    return high, shrunk(changes, costs, high)


CASES = {
    "directions alone": {},
    "ridge": {"beta": 1.0},
    "ridge and few directions": {"beta": 1.0, "directions": 1},
    "every direction": {"directions": 99},
    "many orders of magnitude": {"beta": 1.0, "spread": 3.0},
}


@pytest.mark.parametrize("share", [0.9, 0.1, 1e-3])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["f32", "f64"])
def test_update_is_the_nearest_within_the_limit(dtype, tolerance, case, share):
    model = model_of(dtype)
    anchors = anchors_of(model, **CASES[case])
    before, costs = updates(model), metrics(anchors)
    limit = share * drift(before, costs)
    nu, expected = nearest(before, costs, limit)

    budget = DriftBudget(model, anchors, limit, resumed=True)
    assert float(budget.drift()) == pytest.approx(drift(before, costs), rel=1e-5)
    assert budget.hold() == pytest.approx(nu, rel=100 * tolerance)
    after = updates(model)
    assert limit * (1 - tolerance) < drift(after, costs) <= limit * (1 + 1e-5)
    assert float(budget.drift()) == pytest.approx(drift(after, costs), rel=1e-5)
    for name in expected:
        assert float((after[name] - expected[name]).norm()) < tolerance * float(before[name].norm()), name


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_no_other_update_within_the_limit_is_nearer(beta):
    model = model_of(torch.float64)
    anchors = anchors_of(model, beta)
    before, costs = updates(model), metrics(anchors)
    limit = 0.3 * drift(before, costs)
    DriftBudget(model, anchors, limit, resumed=True).hold()
    after = updates(model)
    least = distance(after, before)

    others = [{name: 0.3 * w for name, w in before.items()}]
    for seed in range(60):
        size = 10.0 ** -(seed % 6)
        moved = {n: w + size * randn(*w.shape, seed=97 * seed + i).double() for i, (n, w) in enumerate(after.items())}
        others.append({name: w * min(1.0, limit / drift(moved, costs)) for name, w in moved.items()})
        others.append({name: w + 1e-3 * size * (before[name] - w) for name, w in after.items()})
    within = [other for other in others if drift(other, costs) <= limit * (1 + 1e-12)]
    assert len(within) > 60
    assert min(distance(other, before) for other in within) >= least


@pytest.mark.parametrize("share", [1.0 + 1e-5, 10.0])
def test_nothing_changes_within_the_limit(share):
    model = model_of()
    anchors = anchors_of(model, beta=1.0)
    before = deepcopy(factors_of(model))
    assert DriftBudget(model, anchors, share * drift(updates(model), metrics(anchors)), resumed=True).hold() == 0.0
    assert all(torch.equal(x, y) for n, pair in factors_of(model).items() for x, y in zip(pair, before[n], strict=True))


def test_an_untrained_adapter_is_within_any_limit():
    model = with_lora(tiny_model())
    budget = DriftBudget(model, anchors_of(model), 1e-9)
    assert (float(budget.drift()), budget.hold()) == (0.0, 0.0)


def test_only_a_changes_and_stays_what_it_is():
    model = model_of()
    anchors = anchors_of(model, beta=1.0)
    factors = [(f.a, f.b, f.a.detach().clone(), f.b.detach().clone()) for f in find_lora_factors(model)]
    for a, _, _, _ in factors:
        a.grad = torch.ones_like(a)
    assert DriftBudget(model, anchors, 0.1, resumed=True).hold() > 0
    again = find_lora_factors(model)
    for factor, (a, b, old_a, old_b) in zip(again, factors, strict=True):
        assert factor.a is a and factor.b is b and torch.equal(b, old_b) and not torch.equal(a, old_a)
        assert a.requires_grad and a.is_leaf and torch.equal(a.grad, torch.ones_like(a))


def test_what_costs_no_drift_is_left():
    model = model_of(torch.float64)
    anchors = anchors_of(model, directions=3)
    before, forms = updates(model), {n: a.inp for n, a in anchors.terms[0].modules.items()}
    assert DriftBudget(model, anchors, 1e-3, resumed=True).hold() > 0
    for name, after in updates(model).items():
        u = forms[name].directions
        outside = EYE[len(u)] - u @ u.mT
        torch.testing.assert_close(after @ outside, before[name] @ outside, rtol=0, atol=1e-10)
        assert float((after @ u).norm()) < 0.5 * float((before[name] @ u).norm())


def test_holding_again_changes_next_to_nothing():
    model = model_of()
    anchors = anchors_of(model, beta=1.0)
    budget = DriftBudget(model, anchors, 0.1, resumed=True)
    budget.hold()
    before = updates(model)
    for _ in range(20):
        budget.hold()
    assert distance(updates(model), before) < 1e-5 * drift(
        before, {n: torch.eye(w.shape[1]).double() for n, w in before.items()}
    )


def test_alpha_and_b_may_share_a_factor_in_any_way():
    """Also where it differs from layer to layer: what is held is the update, not the factors."""
    one, other = model_of(torch.float64), model_of(torch.float64)
    for i, factor in enumerate(find_lora_factors(other)):
        factor.layer.scaling[factor.adapter] *= 2.0**i
        factor.b.data /= 2.0**i
    for model in (one, other):
        assert DriftBudget(model, anchors_of(model, beta=1.0), 0.1, resumed=True).hold() > 0
    ours, theirs = updates(one), updates(other)
    assert distance(ours, theirs) < 1e-9 * distance(ours, {name: 0 * w for name, w in ours.items()})


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("settings", [{}, {"ridge": 0.1}, {"tolerance": 0.0, "weight": 7.0}], ids=str)
def test_drift_of_an_activation_anchor_is_held(tmp_path, kind, settings):
    plain = speaking_model(kind)
    model, rows = adapted(deepcopy(plain), kind), prompts(tmp_path)
    anchors = build_anchors(model, plain, anchors=[Activation(prompts=rows, **settings)], probe=probe(plain), progress=False)
    DriftBudget(model, anchors, 0.1, resumed=True).hold()

    changes, asked = updates(model), probe(plain)
    weights = {n: plain.get_submodule(n).weight.detach().double() for n in changes}
    weights = {n: w.mT if kind == "gpt2" else w for n, w in weights.items()}
    inputs = inputs_of(plain, asked.prompt_ids(rows.load()), list(changes))
    unit = sensitivity_of(plain, asked.prompt_ids(rows.load()), list(changes))
    exact = (unit * float(relative_change(changes, weights, inputs, settings.get("ridge", 0.0)))) ** 0.5
    assert exact <= 0.1 * (1 + 1e-5)
    assert exact > (0.0999 if settings.get("tolerance") == 0 else 0.05)


def test_other_anchors_of_a_sum_are_not_its_affair(tmp_path):
    plain = speaking_model()
    model, rows = adapted(deepcopy(plain)), prompts(tmp_path)
    anchors = [[Activation(prompts=rows)], [Gram(), Activation(prompts=rows, weight=3.0), Shrinkage()]]
    alone, summed = (
        build_anchors(model, plain, speaking_model(seed=1), chosen, probe=probe(plain), progress=False) for chosen in anchors
    )
    drifts = [float(DriftBudget(model, built, 0.1, resumed=True).drift()) for built in (alone, summed)]
    assert drifts[0] == drifts[1] > 0


def test_anchors_may_stay_on_the_host():
    models = [model_of(), model_of()]
    for model, on_host in zip(models, (False, True), strict=True):
        DriftBudget(model, anchors_of(model, beta=1.0), 0.1, resumed=True, anchors_on_host=on_host).hold()
    assert all(torch.equal(w, updates(models[1])[name]) for name, w in updates(models[0]).items())


@pytest.mark.parametrize("limit", [0.0, -0.1, float("nan"), 1e-170, 1e200])
def test_a_limit_must_be_positive(limit):
    model = model_of()
    with pytest.raises(ConfigurationError, match=r"above 0, from 1e-12 to 1e12, got .*Recommended is 0.3"):
        DriftBudget(model, anchors_of(model), limit, resumed=True)


@pytest.mark.parametrize("count", [0, 2])
def test_one_relative_anchor_is_needed(count):
    model = model_of()
    anchors = anchors_of(model)
    other = AnchorTerm({"class": "Shrinkage"}, 1.0, dict.fromkeys(anchors.shapes, ModuleAnchor()))
    with pytest.raises(ConfigurationError, match=rf"among `anchors` there are {count} of them\. Have exactly one"):
        DriftBudget(model, replace(anchors, terms=(other, *anchors.terms * count)), 0.1, resumed=True)


def test_what_it_does_not_see_is_not_trained():
    model = model_of()
    anchors = anchors_of(model)
    name = next(iter(anchors.shapes))
    modules = {n: a for n, a in anchors.terms[0].modules.items() if n != name}
    fewer = replace(
        anchors,
        shapes={n: anchors.shapes[n] for n in modules},
        terms=(replace(anchors.terms[0], modules=modules),),
    )
    with pytest.raises(UnpenalisedError, match=r"1 layer\(s\) like this one have no anchor"):
        DriftBudget(model, fewer, 0.1, resumed=True)
    with pytest.raises(UnpenalisedError):
        DriftBudget(model, anchors, 0.1)
