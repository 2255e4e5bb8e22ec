"""The command line, end to end on the tiny pair: subcommands, what they leave behind, and users' mistakes."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import yaml
from kit import tiny
from kit.commands import said
from peft import PeftModel

from asft_lightning.cli import COMMANDS, main
from asft_lightning.runtime.files import cache_folder
from asft_lightning.runtime.named_configs import config_names, find_config, with_found_configs

pytestmark = pytest.mark.usefixtures("seed_stays")


@pytest.fixture
def config(pretrained, tmp_path):
    """A small run's config file; its folder is ``run`` beside it."""
    benign, harmful = tiny.benign_rows(), tiny.harmful_rows()
    files = {
        "benign": tiny.write_rows(tmp_path / "benign.jsonl", benign[:40]),
        "harmful": tiny.write_rows(tmp_path / "harmful.jsonl", harmful[:10]),
        "unsafe": tiny.write_rows(tmp_path / "unsafe.jsonl", harmful[10:14]),
        "tasks": tiny.write_rows(tmp_path / "tasks.jsonl", benign[40:44]),
    }
    scored = [("SafetyEvaluation", "unsafe"), ("UtilityEvaluation", "tasks")]
    callbacks = [
        {"class_path": f"asft_lightning.{name}", "init_args": {"prompts": {"path": files[key]}, "max_new_tokens": 2}}
        for name, key in scored
    ]
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"save_last": True}}
    content = {
        "seed_everything": 3,
        "pretrained": {"aligned": pretrained.aligned, "base": pretrained.base},
        "model": {
            "class_path": "asft_lightning.AsFT",
            "init_args": {
                "lambda_reg": 2.0,
                "anchors": [{"class_path": "asft_lightning.Gram"}],
                "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.0}},
            },
        },
        "data": {
            "class_path": "asft_lightning.MixtureDataModule",
            "init_args": {
                "benign": {"path": files["benign"]},
                "harmful": {"path": files["harmful"]},
                "num_rows": 16,
                "poison_ratio": 0.25,
                "val_rows": 4,
                "batch_size": 8,
            },
        },
        "trainer": {
            "default_root_dir": str(tmp_path / "run"),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [*callbacks, {"class_path": "asft_lightning.AdapterCheckpoint"}, saving],
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(tmp_path / "config.yaml")


def table(folder):
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def adapter_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_fit_leaves_all_that_was_promised(config, pretrained, tmp_path):
    main(["fit", "--config", config])
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    steps = [row for row in table(run) if row["train/task_loss"]]

    assert summary["safety/harmful_score"].keys() == summary["utility/accuracy"].keys() == {"before", "after", "interval"}
    assert summary["run"]["seed"] == 3
    assert summary["run"]["harmful_rows"] == 4
    assert summary["run"]["config"] == yaml.safe_load((run / "config.yaml").read_text())
    assert summary["run"]["config"]["model"]["init_args"]["lambda_reg"] == 2.0
    assert [float(row["train/lambda"]) for row in steps] == [2.0, 2.0]
    assert any(row["safety/harmful_score"] for row in table(run))
    assert sorted(path.name for path in (run / "generations").iterdir()) == [
        "safety-after.jsonl", "safety-before.jsonl", "utility-after.jsonl", "utility-before.jsonl",
    ]  # fmt: skip
    assert isinstance(PeftModel.from_pretrained(pretrained.load_model(), run / "adapter"), PeftModel)


def test_written_config_gives_the_same_run(config, tmp_path):
    main(["fit", "--config", config])
    main(["fit", "--config", str(tmp_path / "run" / "config.yaml"), f"--trainer.default_root_dir={tmp_path / 'again'}"])
    first, second = adapter_of(tmp_path / "run"), adapter_of(tmp_path / "again")

    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_ckpt_path_resumes(config, tmp_path):
    main(["fit", "--config", config, "--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path / 'whole'}"])
    main(["fit", "--config", config])
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    main(["fit", "--config", config, "--trainer.max_epochs=2", "--ckpt_path", str(checkpoint)])
    whole, parts = adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "run")

    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert [row["step"] for row in table(tmp_path / "run") if row["train/task_loss"]] == ["0", "1", "2", "3"]


def test_validate_and_test_leave_the_fit_as_it_was(config, tmp_path, capsys):
    main(["fit", "--config", config])
    run = tmp_path / "run"
    metrics, saved = (run / "metrics.csv").read_text(), (run / "config.yaml").read_text()
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    main(["validate", "--config", config, "--ckpt_path", checkpoint])
    assert "val/task_loss" in capsys.readouterr().out
    main(["test", "--config", config, "--ckpt_path", checkpoint])
    assert "safety/harmful_score" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())

    assert summary["safety/harmful_score"]["test"] == summary["safety/harmful_score"]["after"]
    assert (run / "metrics.csv").read_text() == metrics
    assert (run / "config.yaml").read_text() == saved


def test_nothing_to_measure_is_one_line(config, capsys):
    without_rows = said(capsys, "validate", "--config", config, "--data.init_args.val_rows=0")
    assert without_rows == "validate needs rows that are held out, and there are none. Add --data.val_rows 100."
    told = said(capsys, "test", "--config", config, "--ckpt_path=best")
    assert "ckpt_path must say a checkpoint that is there" in told and told.endswith("checkpoints, or last.")


def test_print_config(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", "--print_config"])

    assert exit_info.value.code == 0
    assert "pretrained" in capsys.readouterr().out


def test_help_names_every_command_with_a_line_and_two_examples(capsys):
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    listed = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ") and len(line.split()) > 2
    }

    assert COMMANDS.keys() <= listed.keys() and "predict" not in listed
    assert sum(line.startswith("  asft-lightning ") for line in lines) == 2


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"fit", "validate", "test", "describe", "audit"}))
def test_help_of_a_command_has_examples(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]

    assert exit_info.value.code == 0
    assert sum(line.startswith(f"asft-lightning {command}") for line in lines) >= 2


def test_unknown_command_is_one_line(capsys):
    assert "a command must be one of protect, chat, generate, fit, validate" in said(capsys, "predict")
    assert "'quikstart' is neither. Did you mean quickstart" in said(capsys, "fit", "--config", "quikstart")


def test_a_misspelt_command_is_guessed(capsys):
    assert said(capsys, "protct").endswith("got 'protct'. Did you mean protect?")


def test_the_version_and_the_machine_are_told(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"asft-lightning {version('asft-lightning')}\n"
    main(["env"])
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["torch"] == version("torch") and told["python"].startswith(platform.python_version())
    assert told["cache"] == str(cache_folder())


def test_configs_are_listed_and_copied(tmp_path, monkeypatch, capsys):
    """What is copied is taken by its path, which wins over the package's own of that name."""
    monkeypatch.chdir(tmp_path)
    main(["configs"])
    assert "methods/asft-alt" in capsys.readouterr().out
    main(["configs", "copy", "methods", "own"])
    assert len(list((tmp_path / "own" / "methods").iterdir())) == len(
        [n for n in config_names() if n.startswith("methods/")]
    )
    assert "does. Remove it" in said(capsys, "configs", "copy", "methods/asft", "own")
    (tmp_path / "quickstart").write_text("seed_everything: 7")
    assert str(find_config("quickstart")) == "quickstart"
    assert find_config("own/methods/asft.yaml").read_text() == find_config("configs/methods/asft.yaml").read_text()


MISTAKES = {
    "--data.init_args.poison_ratio=1.5": "poison_ratio must lie in 0..1, got 1.5",
    "--data.init_args.benign.path=/no/such/rows.jsonl": "a data file must exist, and /no/such/rows.jsonl does not",
    "--pretrained.aligned=nobody/no-such-model": "'nobody/no-such-model' must be a local path or a hub id within reach",
    "--pretrained.base=null": "needs both checkpoints, and `base` is not given",
    "--model.init_args.lambda_reg=-1": "lambda_reg and lambda_warmup_steps must be numbers ≥ 0, got -1.0 and 0",
    "--model.init_args.lora.target_modules=[qkv]": "lora does not fit",
    "--template.style=llama3": "template.style must be one of chat, plain",
    "--ckpt_path=last": "needs a last checkpoint, and",
    "--ckpt_path=/no/such/file.ckpt": "ckpt_path must be a checkpoint file or one of last, auto, best, hpc, and",
}
if not torch.accelerator.is_available():
    MISTAKES["--trainer.accelerator=gpu"] = "No supported gpu backend found"


@pytest.mark.parametrize(("argument", "message"), MISTAKES.items())
def test_users_mistake_is_one_line_and_status_2(config, tmp_path, capsys, argument, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", "--config", config, argument])
    lines = [line for line in capsys.readouterr().err.splitlines() if message in line]

    assert exit_info.value.code == 2
    assert len(lines) == 1
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_mistake_in_a_process_of_its_own(config):
    command = [sys.executable, "-c", "from asft_lightning.cli import main; main()"]
    found = subprocess.run(
        [*command, "fit", "--config", config, "--data.init_args.poison_ratio=10"],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = [line for line in found.stderr.splitlines() if line.startswith("asft-lightning: ")]

    assert found.returncode == 2
    assert said == ["asft-lightning: poison_ratio must lie in 0..1, got 10.0. It is a share, not percent: 0.1 is 10 %."]
    assert "Traceback" not in found.stderr + found.stdout


def test_describe_shows_the_rows_of_a_run(config, tmp_path, capsys, monkeypatch):
    """Also of one that this machine could not train."""
    monkeypatch.setenv("COLUMNS", "160")
    main(["describe", "--config", config, "--trainer.accelerator=gpu"])
    shown = capsys.readouterr().out

    assert "benign" in shown
    assert "16 in all: 12 benign, 4 harmful; 4 held out" in shown
    assert "<|assistant|>" in shown
    assert not (tmp_path / "run").exists()


def test_describe_shows_the_rows_of_any_data(config, tmp_path, capsys):
    """A module of others, with tensors for rows; and ours for a judge, with texts."""
    main(["describe", "--config", config, "--data=lightning.pytorch.demos.boring_classes.BoringDataModule"])
    shown = capsys.readouterr().out
    assert ["train", "64", "64"] in [line.split() for line in shown.splitlines()]
    assert "── test: first row\nfloat32 (32,)" in shown

    rows = [{"prompt": "open door", "response": "it is open", "category": "a"}] * 3
    source = {"path": tiny.write_rows(tmp_path / "labelled.jsonl", rows), "prompt": "{prompt}", "answer": "{response}"}
    data = {"labels": ["a", "b"], "train": source | {"category": "category"}, "batch_size": 2, "val_rows": 0}
    settings = json.dumps({"class_path": "asft_lightning.LabelledDataModule", "init_args": data})
    main(["describe", "--config", config, f"--data={settings}"])
    shown = capsys.readouterr().out
    assert ["train", "3", "2"] in [line.split() for line in shown.splitlines()]
    assert "answer: it is open\nlabels: (True, False)" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.init_args.benign.path=catalogue:agnew"], "the catalogue has sst2, agnews"),
        (["--data.init_args.benign.prompt={question}"], "there is no column 'question' among instruction, output"),
        (["--data=lightning.pytorch.LightningDataModule"], "describe needs a LightningDataModule with a train_dataloader"),
    ],
)
def test_mistakes_that_describe_finds(config, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["describe", "--config", config, *arguments])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_configs_by_their_short_option_and_as_yaml():
    yaml_text = "trainer: {max_steps: 3}"
    resolved = with_found_configs(
        ["fit", "-c", "quickstart", "--config=methods/asft", "--config", yaml_text, "--x=quickstart"]
    )
    assert resolved == [
        "fit", "-c", str(find_config("quickstart")), f"--config={find_config('methods/asft')}", "--config", yaml_text,
        "--x=quickstart",
    ]  # fmt: skip
