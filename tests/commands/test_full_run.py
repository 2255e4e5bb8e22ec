"""Full fine-tuning by the command line: killed anywhere it goes on, and commands for adapters say that it has none."""

import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from kit.commands import FORKED, said, write_config
from kit.forks import Forks
from safetensors.torch import load_file

pytestmark = FORKED
STEPS = 5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Begins a run of a name, to its end or until a moment; its folder."""
    folder = tmp_path_factory.mktemp("full")
    config = Path(write_config(folder, "FullAsFT", STEPS, every_n_train_steps=1))
    content = yaml.safe_load(config.read_text())
    forks = Forks(folder)

    def run(name, end=None):
        own = {"default_root_dir": str(folder / name)}
        config.write_text(yaml.safe_dump(content | {"trainer": content["trainer"] | own}))
        forks.begin(["fit", f"--config={config}", "--ckpt_path=auto"], 1, end)
        assert forks.ended(-signal.SIGKILL) == (0 if end is None else -signal.SIGKILL), forks.log.read_text()
        return folder / name

    yield run
    forks.close()


@pytest.fixture(scope="module")
def whole(runs):
    return runs("whole")


def written(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize(("moment", "count"), [("training", 4), ("stepping", 2), ("writing", 3)])
def test_killed_run_goes_on_to_the_same_model(runs, whole, moment, count):
    name = f"{moment}-{count}"
    assert not (runs(name, [moment, count, "SIGKILL", None]) / "model").exists()
    found, expected = written(runs(name)), written(whole)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())
    scores = [
        json.loads((whole.parent / run / "summary.json").read_text())["safety/harmful_score"] for run in (name, "whole")
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("command", ["chat", "export", "generate"])
def test_commands_for_adapters_say_where_the_model_is(whole, command, capsys):
    files = {"export": ["out"], "generate": [whole.parent / "unsafe.jsonl", "out.jsonl"]}.get(command, [])
    message = said(capsys, command, str(whole), *map(str, files))
    assert message.startswith(
        f"{command} is for runs that trained an adapter, and this one trained whole weights. {whole}/model"
    )


def test_new_run_sets_the_model_aside(runs):
    folder = runs("twice")
    for file in (folder / "checkpoints").iterdir():
        file.unlink()
    runs("twice")
    assert written(folder / "earlier-1").keys() == written(folder).keys()
