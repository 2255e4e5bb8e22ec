"""Mistakes and lacks that others' code raises: one line, a status, no traceback."""

import pytest
import torch
import yaml
from kit.commands import write_config

from asft_lightning.cli import main
from asft_lightning.runtime.exits import explain


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 TiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_lack_of_memory(error):
    said = explain(error, "; and on")
    assert said.status == 1 and said.message.startswith("memory must hold the model and a batch, and is full (")
    assert "gradient_checkpointing" in said.message and "allocate" in said.message and said.message.endswith("; and on")


def test_a_fault_of_ours_keeps_its_traceback():
    assert explain(RuntimeError("a fault")) is None and explain(ValueError("another")) is None


@pytest.mark.slow
@pytest.mark.usefixtures("seed_stays")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_check_interval": 1000}, "Lightning says: `val_check_interval` (1000) must be less than or equal"),
        ({"early_stopping": {"monitor": "val_loss"}}, "Lightning says: Early stopping conditioned on metric `val_loss`"),
        ({"accumulating": {"scheduling": {0: 2}}}, "Lightning says: You have set `accumulate_grad_batches` and are using"),
        ({"seed": -1}, "Lightning says: -1 is not in bounds"),
    ],
    ids=str,
)
def test_what_lightning_refuses(tmp_path, capsys, settings, message):
    path = write_config(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name, kind in (("early_stopping", "EarlyStopping"), ("accumulating", "GradientAccumulationScheduler")):
        if name in settings:
            config["trainer"]["callbacks"].append({"class_path": kind, "init_args": settings[name]})
            config["trainer"]["accumulate_grad_batches"] = 2 if name == "accumulating" else 1
    if "val_check_interval" in settings:
        config["trainer"] |= settings
    config["seed_everything"] = settings.get("seed", 1)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", path])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asft-lightning: ")]
    assert ended.value.code == 2 and len(said) == 1 and message in said[0]
