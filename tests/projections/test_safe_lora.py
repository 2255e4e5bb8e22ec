"""Safe LoRA, against its authors' rule written down again with dense float64 matrices."""

import pytest
import torch
from kit.models import TARGETS, Pair, factors_of, tiny_pair, train_factors, with_lora
from kit.references import dense_gram

from asft_lightning import ConfigurationError, SafeLoRA
from asft_lightning.anchors import WeightPair
from asft_lightning.projections import project_model
from asft_lightning.weights.matrices import open_weights


def reference(model, pair: Pair):
    """{module: (cosine of C·BA and BA, C·B)}: everything dense, everything of the adapter as it was trained."""
    found = {}
    for name, (a, b) in factors_of(model).items():
        c, a, b = dense_gram(pair.direction(name)), a.double(), b.double()
        cosine = torch.nn.functional.cosine_similarity((c @ b @ a).reshape(1, -1), (b @ a).reshape(1, -1))
        found[name] = float(cosine), c @ b
    return found


@pytest.fixture(params=["llama", "gpt2"])
def case(request):
    pair = tiny_pair(request.param, scale=0.3)
    model = with_lora(pair.aligned, target_modules=TARGETS[request.param])
    train_factors(model)
    return model, pair, WeightPair(open_weights(pair.aligned), open_weights(pair.base))


def check(model, before, expected, found, chosen):
    after = factors_of(model)
    assert [layer.name for layer in found] == list(before)
    for layer in found:
        (a, b), (new_a, new_b) = before[layer.name], after[layer.name]
        cosine, projected = expected[layer.name]
        wanted = projected if layer.name in chosen else b.double()
        assert layer.changed == (layer.name in chosen)
        assert layer.cosine == pytest.approx(cosine, rel=1e-9)
        assert torch.equal(new_a, a)
        torch.testing.assert_close(new_b.double(), wanted, rtol=1e-6, atol=1e-8)
        size, kept = (float((x @ a.double()).norm()) for x in (b.double(), wanted))
        assert layer.size == pytest.approx(size) and layer.kept == pytest.approx(kept / size)


def copied(model):
    return {name: (a.clone(), b.clone()) for name, (a, b) in factors_of(model).items()}


def test_layers_below_the_threshold_are_mapped(case):
    model, pair, weights = case
    before, expected = copied(model), reference(model, pair)
    threshold = sorted(cosine for cosine, _ in expected.values())[2] + 1e-9
    found = project_model(model, SafeLoRA(threshold=threshold), weights)
    chosen = {name for name, (cosine, _) in expected.items() if cosine <= threshold}
    assert len(chosen) == 3
    check(model, before, expected, found, chosen)


@pytest.mark.parametrize("count", [1, 4])
def test_so_many_of_the_least_aligned_are_mapped(case, count):
    model, pair, weights = case
    before, expected = copied(model), reference(model, pair)
    found = project_model(model, SafeLoRA(num_layers=count), weights)
    check(model, before, expected, found, set(sorted(expected, key=lambda name: expected[name][0])[:count]))


@pytest.mark.parametrize(("threshold", "changed"), [(0.0, False), (1.0, True)])
def test_extreme_thresholds(case, threshold, changed):
    model, _, weights = case
    assert {layer.changed for layer in project_model(model, SafeLoRA(threshold=threshold), weights)} == {changed}


def test_an_update_along_v_is_the_most_aligned():
    """B among the columns of V: its cosine is near 1; B orthogonal to them: 0, whatever the size."""
    pair = tiny_pair()
    model = with_lora(pair.aligned, target_modules=["q_proj"], r=1)
    train_factors(model)
    names = list(factors_of(model))
    u = torch.linalg.svd(pair.direction(names[0])).U
    factors_of(model)[names[0]][1].data.copy_(1e-3 * u[:, :1])
    found = project_model(model, SafeLoRA(num_layers=1), WeightPair(open_weights(pair.aligned), open_weights(pair.base)))
    assert [layer.changed for layer in found] == [False, True]
    assert found[0].cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"exactly one of threshold and num_layers, got threshold=None, num_layers=None"),
        ({"threshold": 0.3, "num_layers": 2}, r"exactly one .*got threshold=0.3, num_layers=2. Leave the other one null"),
        ({"threshold": 35}, r"0 ≤ threshold ≤ 1, got 35. It is a cosine"),
        ({"threshold": float("nan")}, r"0 ≤ threshold ≤ 1, got nan"),
        ({"num_layers": 0}, r"num_layers of 1 or more, got 0. The authors take 10"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        SafeLoRA(**settings)


def test_more_layers_than_there_are(case):
    model, _, weights = case
    message = rf"at most the adapter's {len(factors_of(model))} layers, got 9. Lower it, or give a threshold"
    with pytest.raises(ConfigurationError, match=message):
        project_model(model, SafeLoRA(num_layers=9), weights)
