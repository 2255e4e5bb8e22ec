"""A run's folder: one place, whatever the logger; the user's home; and a rehearsal that leaves it as it was."""

import os

import pytest
import torch
import yaml
from kit.commands import said, write_config
from safetensors.torch import load_file

from asft_lightning import AnchorSet
from asft_lightning.cli import main
from asft_lightning.comparison import load_comparison

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("seed_stays")]


def edited(config, change):
    """The config with what ``change`` does to it."""
    with open(config) as file:
        content = yaml.safe_load(file)
    change(content)
    with open(config, "w") as file:
        yaml.safe_dump(content, file)
    return config


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def adapter_of(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "CSVLogger"])
def test_a_users_own_logger_with_versions_moves_nothing(tmp_path, logger):
    """The run goes on, equals the uninterrupted one, and can be exported."""
    own = {"class_path": f"lightning.pytorch.loggers.{logger}", "init_args": {"save_dir": str(tmp_path / "logs")}}
    config = edited(write_config(tmp_path, every_n_train_steps=1), lambda content: content["trainer"].update(logger=own))
    whole = tmp_path / "whole"
    main(["fit", "--config", config, "--trainer.max_steps=4", f"--trainer.default_root_dir={whole}"])
    main(["fit", "--config", config, "--ckpt_path=auto"])
    run = tmp_path / "run"
    main(["fit", "--config", config, "--ckpt_path=auto", "--trainer.max_steps=3"])
    main(["fit", "--config", config, "--ckpt_path=last", "--trainer.max_steps=4"])
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    expected = adapter_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in adapter_of(run).items())
    main(["test", "--config", config])
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    assert not list((tmp_path / "logs").rglob("*.ckpt")) and not list((tmp_path / "logs").rglob("config.yaml"))
    main(["export", str(run), str(tmp_path / "out")])


def test_a_rehearsal_leaves_a_finished_run_as_it_was(tmp_path):
    elsewhere = {"class_path": "asft_lightning.AdapterCheckpoint", "init_args": {"folder": str(tmp_path / "shared")}}
    config = edited(write_config(tmp_path), lambda content: content["trainer"]["callbacks"].append(elsewhere))
    main(["fit", "--config", config])
    run, before = tmp_path / "run", [contents(tmp_path / name) for name in ("run", "shared")]
    main(["fit", "--config", config, "--trainer.fast_dev_run=true", "--model.init_args.lambda_reg=2"])
    rehearsed = contents(run / "fast_dev_run")
    assert {".", "adapter", "generations", "shared"} <= {str(path.parent) for path in rehearsed}
    after = {path: data for path, data in contents(run).items() if path.parts[0] != "fast_dev_run"}
    assert [after, contents(tmp_path / "shared")] == before


def test_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config(tmp_path)
    text = (tmp_path / "config.yaml").read_text().replace(str(tmp_path), "~")
    assert text.count("~/") == 6  # the pair, the rows and prompts, and the run
    (tmp_path / "config.yaml").write_text(text)
    fit = ["fit", "--config=~/config.yaml"]
    main([*fit, "--trainer.callbacks+=AdapterCheckpoint", "--trainer.callbacks.folder=~/copy"])
    main([*fit, "--ckpt_path=~/run/checkpoints/last.ckpt", "--trainer.max_steps=3"])
    assert (tmp_path / "run" / "summary.json").is_file() and (tmp_path / "copy").is_dir()

    sides = ["--pretrained.aligned=~/aligned", "--pretrained.base=~/base"]
    main(["anchors", "build", *sides, "--output=~/anchors.safetensors", "--png=~/anchors.png"])
    main(["anchors", "show", "~/anchors.safetensors", "--png=~/shown.png"])
    main(["anchors", "diff", "~/anchors.safetensors", "~/run/adapter"])
    main(["project-adapter", "~/run/adapter", "~/safer", *sides])
    main(["export", "~/run", "~/exported"])
    main([*fit, "--model.init_args.anchor_file=~/anchors.safetensors", "--model.init_args.adapter=~/safer"])
    assert (tmp_path / "anchors.png").is_file() and (tmp_path / "shown.png").is_file()
    assert (tmp_path / "safer").is_dir() and (tmp_path / "exported").is_dir()

    AnchorSet.load("~/anchors.safetensors").save("~/again.safetensors")
    (tmp_path / "c.yaml").write_text("{methods: {asft: {}}, axes: {seed: [0]}, output: ~/compared}")
    assert load_comparison("~/c.yaml").folder == tmp_path / "compared"
    assert not [name for name in os.listdir(tmp_path) if name.startswith("~")]


def test_barebones_and_the_search_for_a_rate(tmp_path, capsys):
    config = write_config(tmp_path)
    expected = "the trainer's settings must go together, and Lightning says: `Trainer(barebones=True, log_every_n_steps=1)`"
    assert said(capsys, "fit", "--config", config, "--trainer.barebones=true", "--trainer.log_every_n_steps=1").startswith(
        expected
    )
    expected = "LearningRateFinder sets a module's `lr`, and AsFT has none"
    assert expected in said(capsys, "fit", "--config", config, "--trainer.callbacks+=LearningRateFinder")
    quiet = [f"--trainer.{name}=null" for name in ("enable_progress_bar", "enable_model_summary")]
    without = edited(config, lambda content: content["trainer"]["callbacks"].pop())  # what saves checkpoints
    main(["fit", "--config", without, "--trainer.barebones=true", *quiet])
    assert len(adapter_of(tmp_path / "run")) == 8
