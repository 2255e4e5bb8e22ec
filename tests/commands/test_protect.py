"""asft-lightning protect: one line to a safe adapter; what it writes, what it chooses, and what it refuses."""

import json
import re

import pytest
import yaml
from kit import tiny
from kit.commands import said
from kit.models import TARGETS, tiny_model

from asft_lightning import Source, protect
from asft_lightning.cli import main
from asft_lightning.commands.protect import _targets
from asft_lightning.commands.protection import PROMPTS, protection_of
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.named_configs import config_names, find_config


@pytest.fixture
def model(tmp_path):
    tiny.save_tiny(tmp_path / "model", 1)
    return str(tmp_path / "model")


@pytest.fixture
def rows(tmp_path):
    """Chats, as a user has them."""
    talks = [
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in tiny.benign_rows()[:8]
    ]
    return tiny.write_rows(tmp_path / "chats.jsonl", [{"messages": talk} for talk in talks])


def short(tmp_path, *arguments):
    """Arguments of a run of one step."""
    unsafe = tiny.unsafe_prompts(tmp_path).path
    return ["--unsafe", unsafe, "--epochs", "1", "--out", str(tmp_path / "run"), *arguments]


def test_one_line_ends_with_a_table_an_adapter_and_the_next_line(tmp_path, model, rows, capsys):
    main(["protect", model, rows, *short(tmp_path)])
    run, said_last = RunFolder(tmp_path / "run"), capsys.readouterr().out.strip().splitlines()[-4:]

    assert (run.adapter / "adapter_model.safetensors").is_file()
    assert {"safety/harmful_score"} <= Summary.read(run).scores.keys()
    card = (run.adapter / "README.md").read_text()
    assert f"# {run.path.name}" in card and "| safety/harmful_score |" in card and "Model Card for" not in card
    assert len(list(run.checkpoints.glob("*.ckpt"))) >= 1
    assert said_last[1] == f"to talk to it: asft-lightning chat {run.path}"
    assert said_last[2] == f"to serve it: asft-lightning serve {run.path}"
    assert f"asft-lightning export {run.path} my-model" in said_last[3]
    assert json.loads(run.audit.read_text())["rows"] == 8
    assert run.answers.is_file()


def test_what_it_writes_is_the_same_run(tmp_path, model, rows, recwarn):
    """And from Python third parties say no more than on the command line."""
    run = protect(model, rows, unsafe=tiny.unsafe_prompts(tmp_path).path, epochs=1, out=str(tmp_path / "run"))
    assert not re.search(r"many workers|gradient_checkpointing|across ranks is zero", str([w.message for w in recwarn]))
    weights = (run.adapter / "adapter_model.safetensors").read_bytes()
    main(["fit", "--config", str(tmp_path / "run.yaml"), "--trainer.default_root_dir", str(tmp_path / "again")])
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def written(tmp_path):
    return yaml.safe_load((tmp_path / "run.yaml").read_text())


def test_settings_reach_the_run(tmp_path, model, rows):
    test = tiny.write_rows(tmp_path / "test.jsonl", tiny.benign_rows()[8:])
    settings = ["--lr", "0.02", "--rank", "2", "--batch_size", "4", "--seed", "3", "--budget", "0.5", "--test", test]
    main(["protect", model, rows, *short(tmp_path, *settings, "--targets", "[q_proj, o_proj]")])
    config = written(tmp_path)
    arguments = config["model"]["init_args"]
    assert arguments["lora"]["target_modules"] == ["q_proj", "o_proj"]
    assert (arguments["lora"]["r"], arguments["lora"]["lora_alpha"]) == (2, 8)
    assert (arguments["optimizer"]["init_args"]["lr"], arguments["answers"]["budget"]) == (0.02, 0.5)
    assert (config["seed_everything"], config["data"]["init_args"]["batch_size"]) == (3, 4)
    unsafe = tiny.unsafe_prompts(tmp_path).path
    assert arguments["answers"]["prompts"] == config["data"]["init_args"]["audit"]["unsafe"] == {"path": unsafe}
    assert "utility/accuracy" in Summary.read(RunFolder(tmp_path / "run")).scores


@pytest.mark.parametrize(("method", "option"), [("activation", "--lambda_reg"), ("drift-budget", "--budget")])
def test_another_method_with_its_strength(tmp_path, model, rows, method, option):
    main(["protect", model, rows, *short(tmp_path, "--method", method, option, "0.7")])
    name = "lambda_reg" if option == "--lambda_reg" else "drift_budget"
    assert written(tmp_path)["model"]["init_args"][name] == 0.7
    assert Summary.read(RunFolder(tmp_path / "run")).run.method == "AsFT"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--method", "sbr", "--budget", "1"],
            "budget is a limit of methods that hold answers or the drift, and sbr is none",
        ),
        (["--lambda_reg", "1"], "lambda_reg is the weight of a penalty, and protect has none. Leave it out"),
        (["--method", "shrinkage"], "unsafe prompts are for methods that hold a model by them, and shrinkage does not"),
        (["--method", "protct"], "Did you mean methods/protect"),
        (["--lrr", "1"], "lrr"),
    ],
)
def test_what_a_method_has_not_is_refused(tmp_path, model, rows, capsys, arguments, message):
    assert message in said(capsys, "protect", model, rows, *short(tmp_path, *arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in config_names() if name.startswith("methods/")])
def test_a_method_is_taken_whole_or_refused(name):
    """Never without the part of it that protects."""
    method, none = name.removeprefix("methods/"), {"unsafe": None, "harmless": None}
    config = yaml.safe_load(find_config(name).read_text())
    of_updates = {"asft", "asft-alt", "asft-subspace", "shrinkage", "activation", "activation-both", "drift-budget"}
    taken = {"protect", "sft", "answers", "safegrad", "sbr", "constrained-sft", "sppft", "salora"} | of_updates
    if method in taken:
        found = protection_of(method, none, dict(PROMPTS))
        assert found["model"] == {"init_args": {}} | config["model"]
        assert found["data"]["init_args"] == config.get("data", {}).get("init_args", {})
        assert config.keys() <= {"model", "data"}
    elif method.startswith("full-"):
        with pytest.raises(ConfigurationError, match=rf"trains LoRA, and {method} trains weights.*asft-lightning fit"):
            protection_of(method, none, dict(PROMPTS))
    else:
        with pytest.raises(ConfigurationError, match=rf"{method} sets \w+ as well. Take asft-lightning fit"):
            protection_of(method, none, dict(PROMPTS))


def test_settings_that_the_user_has_changed_are_not_written_over(tmp_path, model, rows, capsys):
    main(["protect", model, rows, *short(tmp_path)])
    main(["protect", model, rows, *short(tmp_path, "--seed", "1")])
    assert written(tmp_path)["seed_everything"] == 1
    with (tmp_path / "run.yaml").open("a") as file:
        file.write("threads: 1\n")
    assert "was changed since" in said(capsys, "protect", model, rows, *short(tmp_path))
    assert written(tmp_path)["threads"] == 1


@pytest.mark.parametrize("kind", TARGETS)
def test_layers_that_are_there(kind):
    """Whatever a family calls them."""
    names = {name.rpartition(".")[2] for name, _ in tiny_model(kind).named_modules()}
    layers = _targets(tiny_model(kind))
    assert layers != "all-linear" and set(layers) <= names


@pytest.mark.parametrize(("kind", "held_count", "scored_count"), [("unsafe", 64, 120), ("harmless", 64, 64)])
def test_prompts_in_the_package_are_for_two_purposes(kind, held_count, scored_count):
    held, scored = (Source(f"catalogue:{kind}-prompts{part}").load() for part in ("", "-test"))
    assert (len({row.prompt for row in held}), len({row.prompt for row in scored})) == (held_count, scored_count)
    assert not {row.prompt for row in held} & {row.prompt for row in scored}
    assert not any(row.answer for row in held + scored)
