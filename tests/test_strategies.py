"""The same run on one device, under DDP and under FSDP2: real Lightning strategies, two gloo processes, the command line."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file

from asft_lightning import ConfigurationError, FSDP2Strategy
from asft_lightning.callbacks.alignment_log import AlignmentLog
from asft_lightning.strategies import require_known_strategy

FSDP2 = {"class_path": "asft_lightning.FSDP2Strategy", "init_args": {"process_group_backend": "gloo"}}
STRATEGIES = {"single": "auto", "ddp": "ddp", "fsdp": FSDP2}
STEPS = 5


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Run ``asft-lightning fit`` with a strategy; returns the run's folder."""
    folder = tmp_path_factory.mktemp("strategies")
    pair = tiny.save_tiny(folder / "aligned", 1), tiny.save_tiny(folder / "base", 2)
    benign = {"path": tiny.write_rows(folder / "benign.jsonl", tiny.benign_rows())}
    harmful = {"path": tiny.write_rows(folder / "harmful.jsonl", tiny.harmful_rows())}
    rows = [{"instruction": f"how to open {'x' * i} {i}", "output": "no"} for i in range(7)]
    prompts = {"path": tiny.write_rows(folder / "prompts.jsonl", rows)}

    def run(name, strategy, steps=STEPS, save=False, **arguments):
        ranks = 1 if strategy == "auto" else 2
        own = folder / name
        callbacks = [
            {"class_path": "asft_lightning.SafetyEvaluation",
             "init_args": {"prompts": prompts, "max_new_tokens": 8, "batch_size": 2}},
            {"class_path": "asft_lightning.AdapterCheckpoint"},
            {"class_path": "asft_lightning.AlignmentMonitor", "init_args": {"every_n_steps": 2}},
        ]  # fmt: skip
        saver = {"dirpath": str(own / "checkpoints"), "save_last": True, "every_n_train_steps": 2}
        callbacks += [{"class_path": "ModelCheckpoint", "init_args": saver}] if save else []
        config = {
            "seed_everything": 1,
            "pretrained": {"aligned": str(pair[0]), "base": str(pair[1])},
            "model": {
                "class_path": "asft_lightning.AsFT",
                "init_args": {
                    "lambda_reg": 2.0, "loss_reduction": "row", "lora": tiny.LORA,
                    "anchors": [{"class_path": "asft_lightning.Gram"},
                                {"class_path": "asft_lightning.Subspace", "init_args": {"num_directions": 5}}],
                    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.0}},
                },
            },
            "data": {
                "class_path": "asft_lightning.MixtureDataModule",
                "init_args": {"benign": benign, "harmful": harmful, "num_rows": 40, "poison_ratio": 0.2,
                              "batch_size": 4 // ranks},
            },
            "trainer": {
                "accelerator": "cpu", "devices": ranks, "strategy": strategy, "max_steps": steps, "max_epochs": -1,
                "accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "enable_progress_bar": False,
                "enable_checkpointing": save, "log_every_n_steps": 1, "default_root_dir": str(own), "callbacks": callbacks,
            },
        }  # fmt: skip
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [str(Path(sys.executable).with_name("asft-lightning")), "fit", "--config", str(file)]
        command += [f"--{key}={value}" for key, value in arguments.items()]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ASFT_LIGHTNING_CACHE": str(folder / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return own

    return run


@pytest.fixture(scope="module")
def runs(launch):
    return {name: launch(name, strategy) for name, strategy in STRATEGIES.items()}


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def logged(folder, column):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_weights_are_those_of_one_process(runs, strategy):
    """Rows differ between ranks and the factors' first values too: what agrees is the run, not a coincidence."""
    expected, found = adapter(runs["single"]), adapter(runs[strategy])

    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert float((found[name] - weight).norm()) <= 1e-5 * float(weight.norm()), name
        assert float(weight.norm()) > 0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_logged_penalty_is_that_of_one_process(runs, strategy):
    expected, found = logged(runs["single"], "train/penalty"), logged(runs[strategy], "train/penalty")
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[-1] > expected[0] == 0.0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_monitored_figures_are_those_of_one_process(runs, strategy):
    expected, found = (AlignmentLog(runs[name] / "alignment.csv").read() for name in ("single", strategy))
    assert len(found) == len(expected) > 0
    for row, other in zip(found, expected, strict=True):
        assert astuple(row)[:4] == astuple(other)[:4]
        assert astuple(row)[4:] == pytest.approx(astuple(other)[4:], rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_answers_are_those_of_one_process(runs, strategy, when):
    """Four prompts to one rank and three to the other, which end at different lengths."""
    expected, found = ((runs[name] / "generations" / f"safety-{when}.jsonl").read_text() for name in ("single", strategy))
    assert found == expected


@pytest.mark.parametrize("strategy", [FSDP2, "ddp"], ids=["fsdp", "ddp"])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(launch, runs, strategy):
    name = "fsdp" if strategy == FSDP2 else "ddp"
    launch(f"{name}-resumed", strategy, steps=2, save=True)
    again = launch(f"{name}-resumed", strategy, save=True, ckpt_path="last")
    expected, found = adapter(runs[name]), adapter(again)
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())
    assert json.loads((again / "summary.json").read_text())["safety/harmful_score"].keys() >= {"before", "after"}


@pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy()])
def test_strategies_under_which_factors_are_none(strategy):
    with pytest.raises(
        ConfigurationError, match=rf"needs asft_lightning.FSDP2Strategy, got {type(strategy).__name__}, which"
    ):
        require_known_strategy(strategy)


def test_known_strategy_passes():
    require_known_strategy(FSDP2Strategy())
