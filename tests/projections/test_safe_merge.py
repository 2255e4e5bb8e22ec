"""SafeMERGE, against the paper's formula on dense float64 updates."""

import pytest
import torch
from kit import tiny
from kit.references import dense_gram
from peft import PeftModel
from safetensors.torch import load_file

from asft_lightning import AnchorError, ConfigurationError, SafeMERGE
from asft_lightning.cli import main
from asft_lightning.projections import project_model


def updates(folder, scaling):
    """{module: α/r·BA} of an adapter's files, dense."""
    state = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in state if name.endswith("lora_A.weight")]
    product = {n: state[f"{n}.lora_B.weight"].double() @ state[f"{n}.lora_A.weight"].double() for n in names}
    return {name.removeprefix("base_model.model."): scaling * update for name, update in product.items()}


@pytest.fixture
def case(pretrained, tmp_path):
    """An adapter of rank 4 and α 8, a safe one of rank 2 and α 6."""
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    safe = tiny.write_adapter(tmp_path / "safe", pretrained, seed=1, r=2, lora_alpha=6)
    model = PeftModel.from_pretrained(pretrained.load_model(), adapter, is_trainable=True)
    return model, safe, updates(tmp_path / "adapter", 2.0), updates(tmp_path / "safe", 3.0)


def cosine(pretrained, name, update):
    sides = [pair.state_dict()[f"{name}.weight"].double() for pair in (pretrained.load_model(), base_of(pretrained))]
    mapped = dense_gram(sides[0] - sides[1]) @ update
    return float(torch.cosine_similarity(mapped.flatten(), update.flatten(), dim=0))


def base_of(pretrained):
    return type(pretrained)(pretrained.base, pretrained.base).load_model()


def test_layers_below_the_threshold_are_mixed(case, pretrained, tmp_path):
    model, safe, own, others = case
    cosines = {name: cosine(pretrained, name, update) for name, update in own.items()}
    threshold = sorted(cosines.values())[1] + 1e-9
    method = SafeMERGE(safe, threshold=threshold, share=0.3)
    found = {layer.name: layer for layer in project_model(model, method, method.open(pretrained))}
    model.save_pretrained(tmp_path / "mixed")
    after = updates(tmp_path / "mixed", 2.0)

    assert {name for name, layer in found.items() if layer.changed} == {n for n, c in cosines.items() if c < threshold}
    assert sum(layer.changed for layer in found.values()) == 2
    for name, layer in found.items():
        meant = 0.7 * own[name] + 0.3 * others[name] if layer.changed else own[name]
        u, sigma, v = torch.linalg.svd(meant)
        torch.testing.assert_close(after[name], (u[:, :4] * sigma[:4]) @ v[:4], rtol=1e-5, atol=1e-5)
        assert layer.cosine == pytest.approx(cosines[name], rel=1e-9)
        assert layer.error == pytest.approx(float((meant - after[name]).norm() / meant.norm()), abs=1e-5)
        assert (layer.error > 0.01) == layer.changed


def test_command_writes_both_factors(case, pretrained, tmp_path, capsys):
    _, safe, _, _ = case
    config = tmp_path / "model.yaml"
    config.write_text(f"pretrained: {{aligned: {pretrained.aligned}, base: {pretrained.base}}}\n")
    command = ["project-adapter", str(tmp_path / "adapter"), str(tmp_path / "out"), "--config", str(config)]
    main([*command, "--method", "SafeMERGE", "--method.adapter", safe, "--method.threshold", "1.0"])
    written = PeftModel.from_pretrained(pretrained.load_model(), tmp_path / "out", is_trainable=True)
    model, method = case[0], SafeMERGE(safe, threshold=1.0)
    project_model(model, method, method.open(pretrained))

    expected = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    assert expected and all(torch.equal(written.state_dict()[name], value) for name, value in expected.items())
    assert "4 of 4 layers changed" in (shown := " ".join(capsys.readouterr().out.split()))
    assert "At the adapter's rank they miss what was meant by up to" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"needs `adapter`, the folder or hub id of a LoRA adapter tuned on refusals"),
        ({"adapter": "x", "threshold": 35}, r"0 ≤ threshold ≤ 1 and 0 < share ≤ 1, got 35 and 0.2. The authors' are 0.35"),
        ({"adapter": "x", "share": 0}, r"0 ≤ threshold ≤ 1 and 0 < share ≤ 1, got 0.35 and 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        SafeMERGE(**settings)


def test_adapter_that_is_not_there_shows_when_it_is_opened(pretrained, tmp_path):
    with pytest.raises(ConfigurationError, match="absent"):
        SafeMERGE(str(tmp_path / "absent")).open(pretrained)


def test_adapter_on_other_layers(case, pretrained, tmp_path):
    other = tiny.write_adapter(tmp_path / "other", pretrained, target_modules=["k_proj"])
    with pytest.raises(AnchorError, match=r"q_proj: the adapter .* lacks its lora_A. Tune it with the same target_modules"):
        project_model(case[0], SafeMERGE(other), SafeMERGE(other).open(pretrained))
