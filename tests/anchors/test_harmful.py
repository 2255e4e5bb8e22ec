import pytest
import torch
from kit.models import factors_of, tiny_model, train_factors, with_lora
from kit.references import dense_projector, relative_error
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from asft_lightning.anchors import Harmful, build_anchors
from asft_lightning.errors import AnchorError, ConfigurationError


def harmful_adapter(folder, kind: str = "llama", **settings):
    """A trained adapter in PEFT's own format."""
    model = with_lora(tiny_model(kind), **settings)
    train_factors(model)
    model.save_pretrained(folder)
    return model


def build(model, folder, **settings):
    return build_anchors(model, anchors=[Harmful(adapter=str(folder), **settings)], progress=False)


@pytest.mark.parametrize("k", [1, 3, None])
@pytest.mark.parametrize(("kind", "targets"), [("llama", ["q_proj", "v_proj"]), ("gpt2", ["c_attn", "c_proj"])])
def test_directions_are_those_of_the_adapters_update(tmp_path, kind, targets, k):
    harmful = harmful_adapter(tmp_path, kind, target_modules=targets)
    found = build(with_lora(tiny_model(kind), target_modules=targets), tmp_path, num_directions=k).terms[0].modules
    expected = factors_of(harmful)
    assert found.keys() == expected.keys()
    for name, (a, b) in expected.items():
        assert relative_error(found[name].out.dense(), dense_projector(b.double() @ a.double(), k or 4)) < 1e-5


def test_pickled_adapters_are_read(tmp_path):
    harmful_adapter(tmp_path)
    model, expected = with_lora(tiny_model()), build(with_lora(tiny_model()), tmp_path)
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    assert build(model, tmp_path).sha256() == expected.sha256()


def test_a_layer_the_adapter_lacks_is_named(tmp_path):
    harmful_adapter(tmp_path, target_modules=["q_proj"])
    with pytest.raises(
        AnchorError, match=r"layers\.0\.self_attn\.v_proj: .* lacks its lora_A\. Tune it with the same target"
    ):
        build(with_lora(tiny_model()), tmp_path)


def test_another_shape_is_named(tmp_path):
    harmful_adapter(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    tensors = load_file(path)
    save_file({**tensors, name: tensors[name][:10].clone()}, path)
    with pytest.raises(AnchorError, match=r"q_proj: the update of .* shape \(16, 16\), got \(10, 16\)\. Tune the adapter"):
        build(with_lora(tiny_model()), tmp_path)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_an_adapter_must_be_finite(tmp_path, factor):
    harmful_adapter(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"base_model.model.model.layers.1.self_attn.v_proj.{factor}.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(
        AnchorError, match=rf"layers\.1\.self_attn\.v_proj: .* must be finite, but its {factor} holds NaN.*Tune it again"
    ):
        build(with_lora(tiny_model()), tmp_path)


def test_an_untrained_adapter_is_named(tmp_path):
    with_lora(tiny_model()).save_pretrained(tmp_path)
    with pytest.raises(AnchorError, match=r"q_proj: .*rank of 0 means that the harmful adapter was not trained"):
        build(with_lora(tiny_model()), tmp_path)


def test_an_adapter_is_needed():
    with pytest.raises(AnchorError, match=r"Harmful needs `adapter`, the folder or hub id"):
        build_anchors(with_lora(tiny_model()), anchors=[Harmful()], progress=False)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    LoraConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=r"adapter_model\.safetensors.* has none"):
        build(with_lora(tiny_model()), tmp_path)
