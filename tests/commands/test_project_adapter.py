"""``asft-lightning project-adapter``, through the command line's own entry."""

import json

import pytest
import torch
from kit import tiny
from kit.commands import said
from peft import PeftModel
from safetensors.torch import load_file, save_file

from asft_lightning import AnchorError, SafeLoRA, SafetyVector
from asft_lightning.cli import main
from asft_lightning.projections import project_model


@pytest.fixture
def case(pretrained, tmp_path):
    """(the command without its method, adapter, folder to write)."""
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    (tmp_path / "adapter" / "README.md").write_text("HS 90 before it was projected")
    pretrained.load_tokenizer().save_pretrained(adapter)
    config = tmp_path / "model.yaml"
    config.write_text(f"pretrained: {{aligned: {pretrained.aligned}, base: {pretrained.base}}}\n")
    out = tmp_path / "out"
    return ["project-adapter", adapter, str(out), "--config", str(config)], tmp_path / "adapter", out


@pytest.mark.parametrize(
    ("method", "layers", "tensors"),
    [(SafeLoRA(num_layers=2), 2, 2), (SafetyVector(strength=0.5), 4, 8)],  # what is added to BA changes both factors
    ids=["safe_lora", "safety_vector"],
)
def test_written_adapter_is_the_live_models_projection(case, pretrained, capsys, method, layers, tensors):
    command, adapter, out = case
    setting = ["--method.num_layers", "2"] if isinstance(method, SafeLoRA) else ["--method.strength", "0.5"]
    main([*command, "--method", type(method).__name__, *setting])
    model = PeftModel.from_pretrained(pretrained.load_model(), adapter, is_trainable=True)
    found = project_model(model, method, method.open(pretrained))
    model.save_pretrained(adapter.parent / "expected")
    expected = load_file(adapter.parent / "expected" / "adapter_model.safetensors")
    written, before = (load_file(folder / "adapter_model.safetensors") for folder in (out, adapter))

    assert all(torch.equal(value, expected[name]) for name, value in written.items())
    assert sum(not torch.equal(value, before[name]) for name, value in written.items()) == tensors
    assert isinstance(PeftModel.from_pretrained(pretrained.load_model(), out), PeftModel)
    record = json.loads((out / "projection.json").read_text())
    assert {name: layer["changed"] for name, layer in record["layers"].items()} == {x.name: x.changed for x in found}
    shown = capsys.readouterr().out
    assert f"{layers} of 4 layers changed" in shown and f"written to {out}" in shown
    assert (out / "tokenizer_config.json").is_file() and not (out / "README.md").exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["adapter", "expected", "model.yaml", "out"]


def test_shrinkage_with_an_anchor_of_ones_own(case):
    command, adapter, out = case
    main([*command, "--method", "OffAnchorShrinkage", "--method.strength", "3", "--method.anchor", "Shrinkage"])
    written, before = (load_file(folder / "adapter_model.safetensors") for folder in (out, adapter))
    for name, value in before.items():
        assert torch.equal(written[name], value / 4 if "lora_B" in name else value)


def test_the_default_is_the_authors_threshold(case):
    command, _, out = case
    main(command)
    assert json.loads((out / "projection.json").read_text())["method"] == SafeLoRA(threshold=0.5).settings()


def test_output_within_the_adapters_own_folder(case):
    command, adapter, _ = case
    command[2] = str(adapter / "projected")
    main(command)
    assert (adapter / "projected" / "projection.json").is_file() and not (adapter / "projected" / "projected").exists()


def test_dtype_and_old_weight_files_of_an_adapter(case, pretrained):
    """bfloat16 in a .bin file: it is read as weights only, and written as safetensors of the same dtype."""
    command, adapter, out = case
    file = adapter / "adapter_model.safetensors"
    torch.save({name: value.bfloat16() for name, value in load_file(file).items()}, adapter / "adapter_model.bin")
    file.unlink()
    main(command)
    assert {value.dtype for value in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert not (out / "adapter_model.bin").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: "no/adapter"}, "'no/adapter' must be a local path or a hub id within reach"),
        ({1: "{base}"}, "must be a whole checkpoint, and cannot be loaded (Can't find 'adapter_config.json'"),
        ({2: "{base}"}, "output must not exist yet, and"),
        ({3: "--pretrained.aligned", 4: "{aligned}"}, "SafeLoRA needs both checkpoints, and `base` is not given"),
        ({5: "--method=SafeLoRA"}, "SafeLoRA needs exactly one of threshold and num_layers"),
        ({5: "--method={{class_path: SafeLoRA, init_args: {{num_layers: 5}}}}"}, "at most the adapter's 4 layers, got 5"),
        ({5: "--pretrained.base={aligned}"}, "V = W_aligned − W_base must not be 0"),
    ],
)
def test_mistakes_end_in_one_line(case, pretrained, capsys, changes, message):
    command, _, out = case
    command = [*command, *[""] * (max(changes) + 1 - len(command))]
    for place, argument in changes.items():
        command[place] = argument.format(aligned=pretrained.aligned, base=pretrained.base)
    with pytest.raises(SystemExit) as stopped:
        main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and "Traceback" not in error
    assert not out.exists()


def test_adapters_whose_update_is_not_a_product(case, pretrained, tmp_path, capsys):
    command, _, _ = case
    command[1] = tiny.write_adapter(tmp_path / "dora", pretrained, use_dora=True)
    with pytest.raises(SystemExit):
        main(command)
    assert "must be B·A on a linear weight" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_adapter_of_other_numbers(case, capsys, dtype):
    """PEFT keeps adapters in 16 bits or more; an update of integers would be cut off, and one of float8 has no product."""
    command, adapter, out = case
    file = adapter / "adapter_model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file)
    assert "must hold floating-point numbers of 16 bits or more, but its lora_A is" in said(capsys, *command)
    assert not out.exists()


def test_adapter_with_nan(case, pretrained):
    command, adapter, _ = case
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    next(value for name, value in tensors.items() if "lora_B" in name)[0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert isinstance(stopped.value.__context__, AnchorError)
