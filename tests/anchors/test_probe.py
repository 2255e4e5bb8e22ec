"""Probe: whose inputs count, against one prompt at a time; and that a model is left as it was found."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from kit.activations import adapted, begun, inputs_of, probe, prompts, speaking_model
from kit.models import TARGETS, factors_of
from kit.references import relative_error

from asft_lightning.anchors.second_moment import SecondMoment
from asft_lightning.anchors.watching import InputWatch
from asft_lightning.chat.template import Template
from asft_lightning.errors import AnchorError, ConfigurationError
from asft_lightning.weights.targets import Target, find_lora_factors


def targets_of(model):
    return [factor.target for factor in find_lora_factors(model)]


def second_moments(asked, rows, targets, tokens="all", batch_size=3):
    """{layer: G (d, d)}, nothing dropped."""
    found = {}
    for name, moment in asked.activations(rows, targets, tokens, 512, batch_size).moments.items():
        part = moment.principal(0.0)
        assert part.bound == 0.0
        found[name] = part.directions @ (part.values[:, None] * part.directions.mT)
    return found


def naive(model, asked, rows, names, tokens="all"):
    inputs = inputs_of(model, asked.prompt_ids(rows), names, tokens)
    return {name: x.mT @ x / len(x) for name, x in inputs.items()}


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        assert relative_error(found[name], expected[name]) < tolerance, name


@pytest.mark.parametrize("tokens", ["all", "last", "answer"])
@pytest.mark.parametrize("kind", TARGETS)
def test_the_tokens_asked_for_count_and_no_others(tmp_path, kind, tokens):
    plain = speaking_model(kind)
    model, rows = adapted(deepcopy(plain), kind), prompts(tmp_path).load()
    asked, targets = probe(model), targets_of(model)
    expected = naive(plain, asked, rows, [target.name for target in targets], tokens)
    for batch_size in (1, 3, 100):
        assert_same(second_moments(asked, rows, targets, tokens, batch_size), expected)


def test_answers_are_as_long_as_the_model_makes_them(tmp_path):
    """What the naive reference of ``answer`` rests on: answers begin, and differ from prompt to prompt."""
    model, asked = speaking_model(), probe(None)
    texts = asked.prompt_ids(prompts(tmp_path).load())
    answers = [tuple(begun(model, ids)[len(ids) :]) for ids in texts]
    assert max(map(len, answers)) == 8 and len(set(answers)) > 1


def test_an_answer_that_ends_at_once_leaves_the_prompts_last_token(tmp_path):
    plain = speaking_model()
    plain.lm_head.weight.data[2] = 0.0
    plain.lm_head.weight.data[2] += 100 * plain.model.norm.weight.data
    rows, names = prompts(tmp_path).load(), ["model.layers.1.self_attn.q_proj"]
    asked = probe(plain)
    ended = [len(begun(plain, ids)) == len(ids) for ids in asked.prompt_ids(rows)]
    assert any(ended)
    expected = naive(plain, asked, rows, names, "answer")
    assert_same(second_moments(asked, rows, [Target(names[0], (16, 16))], "answer"), expected)


def test_prompts_are_written_by_the_template(tmp_path):
    model, rows = speaking_model(), prompts(tmp_path).load()
    targets = [Target("model.layers.1.mlp.down_proj", (16, 24))]
    plain = second_moments(probe(model), rows, targets)
    asked = probe(model, template=Template(style="alpaca", system="Be good."))
    found = second_moments(asked, rows, targets)
    assert_same(found, naive(model, asked, rows, [target.name for target in targets]))
    assert relative_error(found[targets[0].name], plain[targets[0].name]) > 0.01
    assert asked.tokenizer.decode(asked.prompt_ids(rows)[0]).startswith("Be good.")


@pytest.mark.parametrize("tokens", ["all", "answer"])
def test_adapters_are_switched_off_while_it_runs(tmp_path, tokens):
    plain = speaking_model()
    model, rows = adapted(deepcopy(plain)), prompts(tmp_path).load()
    targets, asked = targets_of(model), probe(model)
    expected = naive(plain, asked, rows, [target.name for target in targets], tokens)
    assert_same(second_moments(asked, rows, targets, tokens), expected)
    inside = model.get_base_model()  # as a model that was adapted without PEFT's wrapper
    assert_same(second_moments(probe(inside), rows, targets, tokens), expected)


def flags(model):
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def states(model):
    modes = [module.training for module in model.modules()]
    generators = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[1, 7, 8, 9]])).logits
    return flags(model), modes, generators, torch.is_grad_enabled(), logits.tolist()


def in_part(model):
    """A model in train mode but for one of its blocks."""
    model.train()
    model.get_base_model().model.layers[0].eval()
    return model


def frozen(model):
    model.requires_grad_(False)
    return model


def with_two(model):
    """Of two adapters the first active, the second too."""
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    return model


def with_an_idle_one(model):
    """Of two adapters the second idle, and yet it is to be trained."""
    model.add_adapter("other", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".other." in name:
            parameter.requires_grad_(True)
    return model


def switched_off(model):
    model.base_model.disable_adapter_layers()
    return model


@pytest.mark.parametrize("tokens", ["last", "answer"])
@pytest.mark.parametrize("as_found", [in_part, frozen, with_two, with_an_idle_one, switched_off], ids=lambda f: f.__name__)
def test_model_is_left_as_it_was(tmp_path, as_found, tokens):
    model = as_found(adapted(speaking_model(), lora_dropout=0.0))
    rows, targets = prompts(tmp_path).load(), targets_of(adapted(speaking_model()))
    before, factors = states(model), deepcopy(factors_of(model))
    probe(model).activations(rows, targets, tokens, 8, 2)
    assert states(model) == before
    assert all(torch.equal(a, b) for name in factors for a, b in zip(factors[name], factors_of(model)[name], strict=True))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_model_is_left_as_it_was_by_an_error(tmp_path):
    model = in_part(adapted(speaking_model()))
    before = states(model)
    targets = targets_of(model)
    with pytest.raises(ConfigurationError, match=r"prompts: token ids must be below the 262"):
        asked = probe(model)
        asked.tokenizer.add_tokens(["lock"])
        asked.activations(prompts(tmp_path).load(), targets, "all", 8, 2)
    assert states(model) == before
    model.get_parameter("base_model.model.model.embed_tokens.weight").data[100:] = float("nan")
    with pytest.raises(AnchorError):
        probe(model).activations(prompts(tmp_path).load(), targets, "all", 8, 2)
    assert flags(model) == before[0] and [module.training for module in model.modules()] == before[1]
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("given", [False, True])
def test_model_is_loaded_when_it_is_needed(tmp_path, given):
    model, rows, loads = speaking_model().train(), prompts(tmp_path).load(), []
    targets = [Target("model.layers.0.self_attn.q_proj", (16, 16))]

    def load():
        loads.append(model)
        return model

    asked = probe(model if given else load, device="cpu")
    asked.prompt_ids(rows)
    assert not loads
    assert_same(second_moments(asked, rows, targets), naive(model, asked, rows, [targets[0].name]))
    assert len(loads) == (not given)


def test_loaded_probe_loads_once(tmp_path):
    rows, loads = prompts(tmp_path).load(), []
    targets = [Target("model.layers.0.self_attn.q_proj", (16, 16))]

    def load():
        loads.append(speaking_model())
        return loads[-1]

    asked = probe(load, device="cpu").loaded()
    asked.activations(rows, targets, "all", 8, 2)
    assert len(loads) == 1 and asked.loaded() is asked


def test_what_is_not_finite_is_refused(tmp_path):
    model = speaking_model()
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] = float("inf")
    targets = [Target(f"model.layers.{i}.mlp.{kind}_proj", (16, 24)) for i in (0, 1) for kind in ("down",)]
    with pytest.raises(AnchorError, match=r"layers\.0\.mlp\.down_proj: .*must be finite"):
        probe(model).activations(prompts(tmp_path).load(), targets, "all", 8, 2)


def test_a_layer_that_the_model_lacks_is_named(tmp_path):
    with pytest.raises(AnchorError, match=r"model\.layers\.7\.q_proj: the model to run must have every targeted layer"):
        absent = Target("model.layers.7.q_proj", (16, 16))
        probe(speaking_model()).activations(prompts(tmp_path).load(), [absent], "all", 8, 2)


class Routed(torch.nn.Module):
    """Gives its layer only some of the tokens, as mixtures of experts do."""

    def __init__(self, inside, chosen):
        super().__init__()
        self.inside, self.chosen = inside, chosen

    def forward(self, hidden):
        return torch.cat([self.inside(hidden[:, self.chosen]), hidden[:, : -len(self.chosen)]], dim=1) * 0 + hidden


class Idle(torch.nn.Module):
    """Never runs its layer."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, hidden):
        return hidden


def test_layers_that_see_some_of_the_tokens_are_refused(tmp_path):
    model = speaking_model()
    model.model.layers[1].mlp = Routed(model.model.layers[1].mlp, [0, 2])
    target = Target("model.layers.1.mlp.inside.up_proj", (24, 16))
    with pytest.raises(
        AnchorError, match=r"layers\.1\.mlp\.inside\.up_proj: .*see every token at its place.*target_modules"
    ):
        probe(model).activations(prompts(tmp_path).load(), [target], "all", 8, 2)


def test_layers_that_are_not_run_are_refused(tmp_path):
    model = speaking_model()
    model.model.layers[1].mlp = Idle(model.model.layers[1].mlp)
    target = Target("model.layers.1.mlp.inside.up_proj", (24, 16))
    with pytest.raises(AnchorError, match=r"layers\.1\.mlp\.inside\.up_proj: .*every token.*target_modules"):
        probe(model).activations(prompts(tmp_path).load(), [target], "all", 8, 2)


def test_layers_that_are_given_the_same_share_one_moment(tmp_path):
    model = speaking_model()
    block = "model.layers.1.self_attn."
    targets = [Target(block + name, (16, 16)) for name in ("q_proj", "k_proj", "o_proj")]
    found = probe(model).activations(prompts(tmp_path).load(), targets, "all", 8, 2).moments
    assert found[block + "q_proj"] is found[block + "k_proj"] is not found[block + "o_proj"]
    assert found[block + "q_proj"].count == found[block + "o_proj"].count


def test_layers_that_are_given_the_same_at_times_alone_are_refused():
    watch = InputWatch({name: SecondMoment(4, 8) for name in ("q", "k")})
    watch.counted = torch.ones(1, 3, dtype=torch.bool)
    first, other = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    for name in ("q", "k"):
        watch.of(name)(torch.nn.Identity(), (first,))
    watch.of("q")(torch.nn.Identity(), (other,))
    with pytest.raises(AnchorError, match=r"k: .*always or never.*target_modules"):
        watch.of("k")(torch.nn.Identity(), (other.clone(),))
