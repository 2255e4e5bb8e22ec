"""Disks that are full or must not be written to, as real ones: one error with the path and the remedy, and nothing lost."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from kit import tiny
from kit.commands import ON_LINUX, said, write_config
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import AdapterCheckpoint, AsFT, StorageError
from asft_lightning.cli import main
from asft_lightning.commands.project_adapter import project_adapter
from asft_lightning.sandbox import build_sandbox

pytestmark = ON_LINUX


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    except OSError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, room=0):
    """Leave only so many bytes."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            file.truncate(file.tell() - room)


def forbid_writing(disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def pages_but(folder, last):
    """The bytes on a disk of all files but the one that is written last."""
    first = [path for path in folder.iterdir() if path.name != last]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in first)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FillAt(Callback):
    """Another process takes all but ``room`` bytes of a disk before a step."""

    def __init__(self, disk, step, room):
        self.disk, self.step, self.room = disk, step, room

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            fill(self.disk, self.room)


def fit(pretrained, folder, data, checkpoints, *callbacks, ckpt_path=None):
    """Four steps, with a checkpoint after each and one on an error."""
    torch.manual_seed(0)
    module = tiny.fine_tuner(AsFT, pretrained, lora=tiny.LORA | {"lora_dropout": 0.2})
    saver = ModelCheckpoint(checkpoints, save_last=True, every_n_train_steps=1, save_on_exception=True)
    trainer = tiny.tiny_trainer(folder, callbacks=[AdapterCheckpoint(), *callbacks, saver], enable_checkpointing=True)
    trainer.fit(module, tiny.tiny_data(pretrained, data, batch_size=4), ckpt_path=ckpt_path)
    return tiny.trained_weights(module)


@pytest.mark.parametrize("room", [0, 12_000], ids=["no room", "room for half a checkpoint"])
def test_checkpoint_folder_that_fills_while_training(pretrained, tmp_path, disk, room):
    """The checkpoint before stays whole, and the run goes on from it to the weights of an uninterrupted one."""
    expected = fit(pretrained, tmp_path / "whole", tmp_path, tmp_path / "whole")
    with pytest.raises(
        StorageError, match=rf"{disk}/.*ckpt must be written, and cannot be \(No space .*goes on with --ckpt"
    ):
        fit(pretrained, tmp_path / "run", tmp_path, disk, FillAt(disk, 2, room))

    last = torch.load(disk / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert not (tmp_path / "run" / "adapter").exists()
    assert not [path for path in disk.iterdir() if path.name.startswith(".")]
    (disk / "ballast").unlink()
    found = fit(pretrained, tmp_path / "run", tmp_path, disk, ckpt_path=disk / "last.ckpt")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("part", ["adapter_model.safetensors", "tokenizer.json"])
def test_adapter_that_finds_no_room(pretrained, tmp_path, disk, part):
    """The earlier one stays, whichever library finds none."""
    fit(pretrained, disk, tmp_path, tmp_path / "kept")
    before = content(disk / "adapter")
    assert len(before[Path(part)]) > 4096
    room = 4096 if part != "tokenizer.json" else 4096 + pages_but(disk / "adapter", part)
    with pytest.raises(
        StorageError, match=rf"{disk}/adapter must be written, and cannot be .*What was there before is as it was. Make room"
    ) as told:
        fit(pretrained, disk, tmp_path, tmp_path / "kept", FillAt(disk, 3, room))
    assert part != "tokenizer.json" or type(told.value.__cause__) is Exception  # all that this library says
    assert content(disk / "adapter") == before
    assert not [path for path in disk.iterdir() if path.name.startswith(".adapter")]


@pytest.mark.parametrize("fault", [fill, forbid_writing])
def test_projected_adapter_that_finds_no_room(pretrained, tmp_path, disk, fault):
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    fault(disk)
    remedy = "Make room" if fault is fill else "Allow it to be written"
    with pytest.raises(StorageError, match=rf"{disk}/out must be written, and cannot be .*{remedy}, or name another folder"):
        project_adapter(adapter, str(disk / "out"), pretrained)
    assert not [path for path in disk.iterdir() if path.name != "ballast"]


@pytest.mark.parametrize("fault", [fill, forbid_writing])
def test_run_folder_from_the_start(tmp_path, capsys, disk, fault):
    config = write_config(tmp_path)
    arguments = ["fit", "--config", config, f"--trainer.default_root_dir={disk}"]
    main(arguments)
    kept = content(disk)
    fault(disk)
    message = said(capsys, *arguments, "--trainer.max_steps=4", f"--ckpt_path={disk / 'checkpoints' / 'last.ckpt'}")
    remedy = "Make room, or" if fault is fill else "Allow it to be written, or"
    assert f"{disk}{'/data.json' if fault is fill else ''} must be written, and cannot be" in message
    assert f"{remedy} name another folder; a run with checkpoints then goes on with --ckpt_path last." in message
    assert {name: data for name, data in content(disk).items() if name != Path("ballast")} == kept


@pytest.mark.parametrize("fault", [fill, forbid_writing])
def test_cache_need_not_be_written_to(pretrained, tmp_path, disk, fault, monkeypatch, caplog):
    """Anchors are kept in the run's folder, and are built again the next time."""
    monkeypatch.setattr("asft_lightning.anchors.build.cache_folder", lambda: disk)
    fault(disk)
    fit(pretrained, tmp_path / "run", tmp_path, tmp_path / "run")
    assert "what was built is not kept for other runs: " in caplog.text
    assert (tmp_path / "run" / "anchors.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "data.json").read_text())["rows"]


def test_sandbox_that_cannot_be_kept(disk, monkeypatch):
    monkeypatch.setattr("asft_lightning.sandbox.build.train_pair", lambda *_: (None, None))  # a minute
    forbid_writing(disk)
    with pytest.raises(StorageError, match=rf"{disk}/pair must be .*Allow it to be written, or name another folder"):
        build_sandbox(disk / "pair")


@pytest.mark.parametrize("damage", ["truncated", "empty", "something else", "not finite"])
def test_damaged_last_checkpoint(tmp_path, capsys, damage):
    """Named with the remedy, and left as it is for whoever wants to look."""
    config = write_config(tmp_path)
    main(["fit", "--config", config])
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    whole = torch.load(path, weights_only=True)
    if damage == "something else":
        torch.save({"weight": torch.ones(2)}, path)
    elif damage == "not finite":
        torch.save(whole | {"state_dict": {n: w * float("nan") for n, w in whole["state_dict"].items()}}, path)
    else:
        path.write_bytes(path.read_bytes()[: -50 if damage == "truncated" else 0])
    left = content(tmp_path / "run" / "checkpoints"), content(tmp_path / "run" / "adapter")
    message = said(capsys, "fit", "--config", config, "--ckpt_path=auto", "--trainer.max_steps=4")
    expected = {
        "something else": "must be a checkpoint of a run, and is something",
        "not finite": "Go on from an earlier one.",
    }
    assert message.startswith(str(path))
    assert expected.get(damage, "cannot be read as a checkpoint") in message
    assert left == (content(tmp_path / "run" / "checkpoints"), content(tmp_path / "run" / "adapter"))
