from copy import deepcopy

import pytest
import torch
from kit.models import TARGETS, tiny_model, with_lora
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from asft_lightning.errors import UnpenalisedError
from asft_lightning.weights.targets import canonical_name, find_lora_factors


class Holder(nn.Module):
    """A project's own module around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = model


class Convolutional(nn.Module):
    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution
        self.linear = nn.Linear(4, 4)


class Experts(nn.Module):
    """Weights of several experts in one parameter, as mixtures of experts keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.gates = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, x):
        return self.linear(x) @ self.gates.sum(0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.q_proj", "model.layers.0.q_proj"),
        ("base_model.model.model.layers.0.q_proj.base_layer.weight", "model.layers.0.q_proj.weight"),
        ("base_model.model.transformer.h.1.attn.c_attn.lora_A.weight", "transformer.h.1.attn.c_attn.lora_A.weight"),
        ("_orig_mod.base_model.model.lm_head", "lm_head"),
        ("base_model.model._orig_mod.lm_head", "lm_head"),
        ("module.lm_head", "lm_head"),
        ("module._orig_mod.base_model.model.lm_head", "lm_head"),
        ("net.model.base_model.model.model.norm", "model.norm"),
        ("_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.q_proj", "model.layers.0.q_proj"),
        ("_orig_mod.module.base_model.model.model.layers.3._orig_mod.q_proj.base_layer", "model.layers.3.q_proj"),
    ],
)
def test_canonical_name_is_that_of_the_plain_model(name, expected):
    assert canonical_name(name) == expected
    assert canonical_name(expected) == expected


def expected_targets(model: PreTrainedModel, ends: list[str]) -> dict[str, tuple[int, ...]]:
    """{name: (d_out, d_in)} of the plain model's linear weights with these names."""
    weights = {n.removesuffix(".weight"): tuple(p.shape) for n, p in model.named_parameters() if n.endswith(".weight")}
    found = {n: shape for n, shape in weights.items() if n.rpartition(".")[2] in ends}
    transposed = model.config.model_type == "gpt2"
    return {n: shape[::-1] for n, shape in found.items()} if transposed else found


@pytest.mark.parametrize("kind", TARGETS)
def test_every_layer_is_found_with_its_name_and_shape(kind):
    model = tiny_model(kind)
    found = find_lora_factors(with_lora(model, target_modules=TARGETS[kind]))
    expected = expected_targets(model, TARGETS[kind])
    assert len(expected) >= 6
    assert {f.target.name: f.target.shape for f in found} == expected
    assert {f.target.transposed for f in found} == {kind == "gpt2"}
    assert all((f.b.shape[0], f.a.shape[1]) == f.target.shape for f in found)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"target_modules": r".*layers\.1\.self_attn\.(q|o)_proj"}, ["1.self_attn.q_proj", "1.self_attn.o_proj"]),
        ({"target_modules": ["k_proj"], "layers_to_transform": [1]}, ["1.self_attn.k_proj"]),
        ({"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0\..*"}, ["1.self_attn.q_proj"]),
    ],
)
def test_only_the_targets_are_found(settings, expected):
    found = find_lora_factors(with_lora(tiny_model(), **settings))
    assert [f.target.name for f in found] == [f"model.layers.{name}" for name in expected]


def test_rank_and_scaling_are_the_layers_own():
    model = with_lora(tiny_model(), lora_alpha=8, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 12})
    ranks = {(f.target.name[-6:], f.a.shape[0], f.scaling) for f in find_lora_factors(model)}
    assert ranks == {("q_proj", 2, 4.0), ("v_proj", 4, 3.0)}


@pytest.mark.parametrize("wrap", [Holder, torch.compile, nn.DataParallel], ids=["holder", "compiled", "parallel"])
def test_wrappers_change_no_name(wrap):
    model = with_lora(tiny_model())
    expected = [f.target for f in find_lora_factors(model)]
    assert [f.target for f in find_lora_factors(wrap(model))] == expected


def test_injected_adapters_are_found():
    model = inject_adapter_in_model(LoraConfig(r=4, target_modules=["q_proj"]), tiny_model())
    assert [f.target.name for f in find_lora_factors(model)] == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]


@pytest.mark.parametrize("trainable", [["default"], ["second"], ["default", "second"]])
def test_trainable_adapters_are_found_and_frozen_ones_are_not(trainable):
    model = with_lora(tiny_model())
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "k_proj"]))
    model.base_model.set_adapter(trainable)
    targets = {"default": ["q_proj", "v_proj"], "second": ["k_proj", "v_proj"]}
    expected = {(a, f"model.layers.{i}.self_attn.{m}") for a in trainable for m in targets[a] for i in range(2)}
    assert {(f.adapter, f.target.name) for f in find_lora_factors(model)} == expected


@pytest.mark.parametrize("model", [tiny_model(), with_lora(tiny_model(), inference_mode=True)], ids=["plain", "all frozen"])
def test_a_model_without_trainable_adapters_is_refused(model):
    with pytest.raises(
        UnpenalisedError, match=r"needs a model with trainable LoRA layers.*Wrap it with peft\.get_peft_model"
    ):
        find_lora_factors(model)


def merged(model: nn.Module) -> nn.Module:
    adapted = with_lora(model)
    adapted.merge_adapter()
    return adapted


def adapted(module: nn.Module, **settings) -> nn.Module:
    return with_lora(module, **{"r": 2, **settings})


LLAMA = tiny_model()
NOT_PLAIN = {
    "DoRA": (lambda: with_lora(LLAMA, use_dora=True), r"layers\.0\.self_attn\.q_proj", "DoraLinearVariant"),
    "embedding": (lambda: with_lora(LLAMA, target_modules=["embed_tokens"]), r"model\.embed_tokens", "on a Embedding"),
    "conv1d": (
        lambda: adapted(Convolutional(nn.Conv1d(4, 4, 3)), target_modules=["convolution"]),
        "convolution",
        "on a Conv1d",
    ),
    "conv2d": (
        lambda: adapted(Convolutional(nn.Conv2d(4, 4, 3)), target_modules=["convolution"]),
        "convolution",
        "on a Conv2d",
    ),
    "experts": (
        lambda: adapted(Holder(Experts()), target_modules=["linear"], target_parameters=["net.gates"]),
        "net",
        "a ParamWrapper on a Experts",
    ),
    "parameter of a linear layer": (
        lambda: with_lora(LLAMA, target_parameters=["mlp.down_proj.weight"]),
        r"layers\.0\.mlp\.down_proj",
        "a ParamWrapper on a Linear",
    ),
    "PiSSA": (lambda: with_lora(LLAMA, init_lora_weights="pissa"), "q_proj", "init_lora_weights='pissa'"),
    "fast PiSSA": (
        lambda: with_lora(LLAMA, init_lora_weights="pissa_niter_2"),
        "q_proj",
        "init_lora_weights='pissa_niter_2'",
    ),
    "OLoRA": (lambda: with_lora(LLAMA, init_lora_weights="olora"), "q_proj", "init_lora_weights='olora'"),
    "PiSSA in a holder": (
        lambda: Holder(with_lora(LLAMA, init_lora_weights="pissa")),
        "q_proj",
        "init_lora_weights='pissa'",
    ),
    "replicated layers": (lambda: with_lora(LLAMA, layer_replication=[[0, 1], [0, 2]]), "q_proj", "layer_replication"),
    "merged": (lambda: merged(LLAMA), "q_proj", "an adapter merged into the weight"),
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_updates_that_are_not_plain_products_are_refused(case):
    build, module, reason = NOT_PLAIN[case]
    with pytest.raises(UnpenalisedError, match=rf"{module}.*must be B·A on a linear weight.*{reason}.*Use plain LoRA"):
        find_lora_factors(build())


def test_a_frozen_adapter_may_be_of_any_kind():
    model = with_lora(deepcopy(LLAMA), use_dora=True)
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["q_proj"]))
    model.set_adapter("plain")
    assert {f.adapter for f in find_lora_factors(model)} == {"plain"}
