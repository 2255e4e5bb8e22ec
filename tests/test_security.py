"""Files from elsewhere run no code: pickles, checkpoints, and models that bring Python with them. Each one here is live."""

import contextlib
import functools
import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from kit import tiny
from kit.commands import Exploit, said, write_config
from safetensors.torch import load_file

from asft_lightning import AsFT, ConfigurationError, GuardJudge, LoRAFineTuner, Pretrained
from asft_lightning.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("seed_stays")]


def make_pickle(folder, stem, witness):
    """The weights of a folder as a pickle that would run code."""
    tensors = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    path = folder / f"{'pytorch_model' if stem == 'model' else stem}.bin"
    torch.save(tensors | {"extra": Exploit(witness)}, path)
    return path


def test_the_exploit_is_a_live_one(tmp_path, witness):
    tiny.save_tiny(tmp_path / "model", 1)
    torch.load(make_pickle(tmp_path / "model", "model", witness), weights_only=False)
    assert witness.exists()


@pytest.mark.parametrize(("method", "side"), [("LoRAFineTuner", "aligned"), ("AsFT", "aligned"), ("AsFT", "base")])
def test_pickled_model(tmp_path, capsys, witness, method, side):
    config = write_config(tmp_path, method)
    make_pickle(tmp_path / side, "model", witness)
    message = said(capsys, "fit", "--config", config)
    assert "holds more than tensors, and nothing of it was executed. Get it again, as safetensors" in message
    assert "weights_only=False" not in message
    assert not witness.exists()


@pytest.mark.parametrize("method", ["LoRAFineTuner", "AsFT"])
def test_pickled_adapter(pretrained, tmp_path, capsys, witness, method):
    config = write_config(tmp_path, method)
    path = tiny.write_adapter(tmp_path / "adapter", pretrained)
    make_pickle(tmp_path / "adapter", "adapter_model", witness)
    message = said(capsys, "fit", "--config", config, f"--model.init_args.adapter={path}")
    assert "adapter_model.bin cannot be read as weights: it is damaged or holds more than tensors, and nothing" in message
    assert not witness.exists()


@pytest.mark.parametrize("raw", [False, True], ids=["torch", "pickle"])
@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_checkpoint_of_a_run(tmp_path, capsys, witness, command, raw):
    config, path = write_config(tmp_path), tmp_path / "evil.ckpt"
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6", "epoch": Exploit(witness)}
    path.write_bytes(pickle.dumps(content)) if raw else torch.save(content, path)
    message = said(capsys, command, "--config", config, f"--ckpt_path={path}")
    assert (
        "evil.ckpt cannot be read as a checkpoint: it is damaged or holds more than tensors, and nothing of it was"
        in message
    )
    assert not witness.exists()


def test_last_checkpoint_of_a_folder(tmp_path, capsys, witness):
    """Found by the run, not named by the user."""
    config = write_config(tmp_path)
    main(["fit", "--config", config])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save(torch.load(last, weights_only=True) | {"epoch": Exploit(witness)}, last)
    message = said(capsys, "fit", "--config", config, "--ckpt_path=last", "--trainer.max_steps=4")
    assert "last.ckpt cannot be read as a checkpoint" in message
    assert not witness.exists()


def test_judge(tmp_path, witness):
    tiny.save_tiny(tmp_path / "judge", 1)
    make_pickle(tmp_path / "judge", "model", witness)
    with pytest.raises(ConfigurationError, match=r"judge cannot be read as weights: .*nothing of it was executed"):
        GuardJudge(str(tmp_path / "judge"), device="cpu")(["a"], ["b"])
    assert not witness.exists()


def with_code(folder, witness, part):
    """A checkpoint whose configuration or tokenizer asks for a class of a Python file beside it."""
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(witness)!r}).touch()\nclass Evil: pass\n")
    name = "config.json" if part == "model" else "tokenizer_config.json"
    content = json.loads((folder / name).read_text())
    if part == "model":
        content |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    else:
        content |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("method", ["LoRAFineTuner", "AsFT"])
@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_code_that_comes_with_a_checkpoint(tmp_path, capsys, witness, method, part):
    config = write_config(tmp_path, method)
    with_code(tmp_path / "aligned", witness, part)
    message = said(capsys, "fit", "--config", config)
    assert f"{tmp_path / 'aligned'} comes with Python code of its own, which is not run." in message
    assert "if you trust it set trust_remote_code to true, under `pretrained` in a config" in message
    assert not witness.exists()


def test_code_is_run_where_the_user_says_so(tmp_path, witness, monkeypatch):
    """So that the files of the test above are live ones."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = with_code(tiny.save_tiny(tmp_path / "model", 1), witness, "model")
    with pytest.raises(Exception, match=r".*"):  # the class is no configuration
        Pretrained(str(folder), trust_remote_code=True).load_model_on_meta()
    assert witness.exists()


def test_what_a_run_folder_says_is_no_consent(tmp_path, capsys, witness):
    """Whoever made a run may have trusted the code; whoever exports it is asked anew."""
    config = write_config(tmp_path)
    main(["fit", "--config", config])
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    saved["pretrained"]["trust_remote_code"] = True
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(saved))
    with_code(tmp_path / "aligned", witness, "model")
    message = said(capsys, "export", str(tmp_path / "run"), str(tmp_path / "exported"))
    assert "which is not run" in message and "on export's command line" in message
    assert not witness.exists() and not (tmp_path / "exported").exists()


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_code_that_comes_with_a_judge(tmp_path, witness, part):
    folder = with_code(tiny.save_tiny(tmp_path / "judge", 1), witness, part)
    with pytest.raises(ConfigurationError, match=r"code of its own, which is not run\..*of judges no code is ever run"):
        GuardJudge(str(folder), device="cpu")(["a"], ["b"])
    assert not witness.exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "describe"])
@pytest.mark.parametrize("setting", ["data.init_args.benign.where", "model.init_args.lora.loftq_config"])
def test_data_of_a_config_stays_data(tmp_path, evil, witness, command, setting):
    """Whatever comes of such a setting: no class is looked up for it, in a mapping of a mapping neither."""
    path = write_config(tmp_path)
    config = yaml.safe_load(Path(path).read_text())
    *parents, last = setting.split(".")
    functools.reduce(lambda node, key: node[key], parents, config)[last] = {
        "deep": [{"class_path": evil}],
        "class_path": evil,
    }
    Path(path).write_text(yaml.safe_dump(config))
    with contextlib.suppress(SystemExit):
        main([command, "--config", path])
    assert not witness.exists()


@pytest.mark.parametrize("setting", ["model.init_args.optimizer", "trainer.callbacks", "model", "data"])
def test_what_runs_commands_is_no_class_for_a_config(tmp_path, capsys, witness, setting):
    command = json.dumps({"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(witness)]}})
    with pytest.raises(SystemExit):
        main(["fit", "--config", write_config(tmp_path), f"--{setting}={command}"])
    assert "Importing 'subprocess.Popen' is not allowed" in capsys.readouterr().err
    assert not witness.exists()


@pytest.mark.parametrize(
    ("command", "swap"),
    [
        ("fit", "a class to import"),
        ("fit", "a class in a setting"),
        ("fit", "no protection"),
        ("validate", "a class in a setting"),
        ("test", "a class to import"),
    ],
)
def test_settings_of_a_checkpoint_are_not_taken(tmp_path, evil, witness, monkeypatch, command, swap):
    """What a run is follows from its config: a checkpoint's hyper-parameters do not reach the parser."""
    config = write_config(tmp_path)
    main(["fit", "--config", config])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    hyper_parameters = {
        "a class to import": {"_class_path": evil},
        "a class in a setting": {"_class_path": "asft_lightning.AsFT", "lora": {"loftq_config": {"class_path": evil}}},
        "no protection": {"_class_path": "asft_lightning.LoRAFineTuner"},
    }[swap]
    given = tmp_path / "given.ckpt"
    torch.save(torch.load(last, weights_only=True) | {"hyper_parameters": hyper_parameters}, given)
    trained = []
    monkeypatch.setattr(AsFT, "setup", lambda self, stage: trained.append(self) or LoRAFineTuner.setup(self, stage))
    held_out = ["--data.val_rows=2"] if command == "validate" else []
    main([command, "--config", config, f"--ckpt_path={given}", "--trainer.max_steps=4", *held_out])
    assert [type(module) for module in trained] == [AsFT]
    assert trained[0].lambda_reg == 1.0
    assert not witness.exists()


@pytest.mark.parametrize("command", [["anchors", "build"], ["project-adapter", "adapter", "out"]])
def test_data_of_other_commands_stays_data(tmp_path, evil, witness, command):
    setting = "--lora" if command[0] == "anchors" else "--method"
    value = json.dumps(
        {"loftq_config": {"class_path": evil}} if command[0] == "anchors" else {"class_path": "subprocess.Popen"}
    )
    with contextlib.suppress(SystemExit):
        main([*command, "--pretrained.aligned", str(tmp_path / "absent"), f"{setting}={value}"])
    assert not witness.exists()


@pytest.mark.parametrize("command", ["show", "diff"])
def test_pickled_anchors(tmp_path, capsys, witness, command):
    anchors = tmp_path / "anchors.safetensors"
    torch.save({"extra": Exploit(witness)}, anchors)
    message = said(capsys, "anchors", command, *[str(anchors)] * (2 if command == "diff" else 1))
    assert "cannot be read as anchors" in message
    assert not witness.exists()


@pytest.mark.parametrize(
    "part",
    [
        {"settings": {"model.init_args.lora.loftq_config": "EVIL"}},
        {"methods": {"sft": "EVIL"}},
        {"axes": {"seed": ["EVIL"]}},
        {"default_method": "EVIL"},
    ],
    ids=lambda part: next(iter(part)),
)
def test_data_of_a_comparison_stays_data(tmp_path, evil, witness, part):
    config = write_config(tmp_path, "LoRAFineTuner")
    whole = {"output": str(tmp_path / "out"), "configs": [config], "axes": {"seed": [0]}, "methods": {"sft": {}}, "jobs": 1}
    text = json.dumps(whole | part).replace('"EVIL"', json.dumps({"class_path": evil}))
    (tmp_path / "comparison.yaml").write_text(text)
    with contextlib.suppress(SystemExit):
        main(["compare", str(tmp_path / "comparison.yaml")])
    assert not witness.exists()
