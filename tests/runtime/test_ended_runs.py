"""Runs that end before their time, as processes: Ctrl-C, a rank that is killed, a loss that is spoilt on one rank alone."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from kit.commands import ON_LINUX, start, write_config
from safetensors.torch import load_file

from asft_lightning.cli import main

pytestmark = ON_LINUX


@pytest.fixture
def last(tmp_path):
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def of_group(leader):
    """The processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(group) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def end_of(process, within):
    """What was said, once the run has ended by itself and left no process behind."""
    try:
        said, _ = process.communicate(timeout=within)
        time.sleep(0.5)
        assert not of_group(process.pid)
    finally:
        if of_group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    return said, [line for line in said.splitlines() if line.startswith("asft-lightning: ")]


def resume(folder, steps, *settings):
    """In this process, on one device."""
    main(["fit", "--config", str(folder / "config.yaml"), "--ckpt_path=last", f"--trainer.max_steps={steps}",
          "--trainer.devices=1", "--trainer.strategy=auto", *settings])  # fmt: skip
    return load_file(folder / "run" / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("pauses", [(), (0.03, 0.03, 0.03)], ids=["once", "again and again"])
def test_ctrl_c(tmp_path, last, pauses):
    """Others while the first one's checkpoint is written, or while the run ends: the checkpoint is written all the same."""
    steps = 150
    config = write_config(tmp_path, steps=steps, every_n_train_steps=5, save_on_exception=True)
    process = start(tmp_path)
    wait_for(last, process)
    process.send_signal(signal.SIGINT)
    for pause in pauses:
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
    said, lines = end_of(process, 60)

    assert process.returncode == 128 + signal.SIGINT, said
    assert lines == ["asft-lightning: ended by Ctrl-C; with --ckpt_path auto it goes on from the last checkpoint"]
    assert "Traceback" not in said
    assert 5 <= torch.load(last, weights_only=True)["global_step"] < steps
    if pauses:
        found = resume(tmp_path, steps)
        main(["fit", "--config", config, f"--trainer.default_root_dir={tmp_path / 'whole'}"])
        expected = load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def without_saver(folder, **trainer):
    """The config of a run whose user says nothing of checkpoints."""
    config = Path(write_config(folder, steps=3000))
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"].pop()
    content["trainer"] |= {"log_every_n_steps": 1} | trainer
    config.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_is_saved_though_nobody_asked(tmp_path, last, how):
    """At each epoch's end (two steps), and where it is ended; one file, from which the same command goes on."""
    without_saver(tmp_path)
    process = start(tmp_path)
    wait_for(last, process)
    process.send_signal(how)
    said, lines = end_of(process, 60)
    assert process.returncode == 128 + how, said
    assert lines[-1].endswith("; with --ckpt_path auto it goes on from the last checkpoint")
    assert os.listdir(last.parent) == ["last.ckpt"]

    step = torch.load(last, weights_only=True)["global_step"]
    found = resume(tmp_path, step + 5)
    main(["fit", "--config", str(tmp_path / "config.yaml"), f"--trainer.max_steps={step + 5}",
          f"--trainer.default_root_dir={tmp_path / 'whole'}"])  # fmt: skip
    expected = load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_run_that_was_not_to_be_saved_says_so(tmp_path, last):
    without_saver(tmp_path, enable_checkpointing=False)
    process = start(tmp_path)
    wait_for(tmp_path / "run" / "summary.json", process)
    process.send_signal(signal.SIGINT)
    said, lines = end_of(process, 60)
    assert process.returncode == 128 + signal.SIGINT, said
    assert lines == ["asft-lightning: ended by Ctrl-C; it has written no checkpoint to go on from"]
    assert not last.parent.exists()


@pytest.mark.parametrize("pieces", [1, 3], ids=["whole batches", "accumulated"])
def test_a_job_that_slurm_requeues_goes_on_from_a_whole_step(tmp_path, last, pieces):
    """Told by the signal, it asks for itself again, and goes on to the weights of a run that was left alone."""
    steps = 150
    config = write_config(tmp_path, steps=steps, every_n_train_steps=5)
    content = yaml.safe_load(Path(config).read_text())
    content["trainer"] |= {"accumulate_grad_batches": pieces}
    Path(config).write_text(yaml.safe_dump(content))
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "scontrol"  # SLURM's own is not here: what it is told is kept
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    command.chmod(0o755)
    job = {"NTASKS": 1, "JOB_NAME": "fit", "JOB_ID": 7, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NTASKS_PER_NODE": 1}
    slurm = {f"SLURM_{name}": str(value) for name, value in job.items()}
    slurm |= {"SLURM_NODELIST": "localhost", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    process = start(tmp_path, **slurm)
    wait_for(last, process)
    process.send_signal(signal.SIGUSR1)
    wait_for(tmp_path / "told", process)
    process.send_signal(signal.SIGTERM)  # as SLURM does with a job that is requeued
    end_of(process, 60)
    assert (tmp_path / "told").read_text().splitlines()[0] == "requeue 7"
    (saved,) = (tmp_path / "run").glob("hpc_ckpt_*.ckpt")
    assert 5 <= torch.load(saved, weights_only=True)["global_step"] < steps

    again = start(tmp_path, **slurm)
    said, _ = end_of(again, 120)
    assert again.returncode == 0, said
    assert f"Restored all states from the checkpoint at {saved}" in said
    main(["fit", "--config", config, f"--trainer.default_root_dir={tmp_path / 'whole'}"])
    weights = [load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("run", "whole")]
    assert all(torch.equal(weights[0][name], weight) for name, weight in weights[1].items())


def on_two_ranks(config, method=None):
    content = yaml.safe_load(Path(config).read_text())
    content["trainer"] |= {"devices": 2, "strategy": "ddp"}
    if method is not None:
        content["model"]["class_path"] = method
    Path(config).write_text(yaml.safe_dump(content))


def test_rank_that_is_killed_ends_the_run(tmp_path, last):
    on_two_ranks(write_config(tmp_path, steps=100_000, every_n_train_steps=5, save_on_exception=True))
    process = start(tmp_path)
    wait_for(last, process)
    (other,) = [
        pid for pid in of_group(process.pid) if pid != process.pid and b"fit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(other, signal.SIGKILL)
    said, lines = end_of(process, 60)

    assert process.returncode not in (0, None)
    assert "Traceback" not in said
    assert all("another rank of this run is gone" in line for line in lines)
    step = torch.load(last, weights_only=True)["global_step"]
    resume(tmp_path, step + 2, "--data.init_args.batch_size=8")  # what was two ranks' is one's
    assert torch.load(last, weights_only=True)["global_step"] == step + 2


SPOILED = """
from asft_lightning import AsFT

class Spoiled(AsFT):
    def task_loss(self, batch):
        loss = super().task_loss(batch)
        return {spoil} if self.global_rank == 1 and self.global_step == 7 else loss
"""


def spoilt_run(folder, spoil):
    """A run on two ranks of which the second does something else at step 7; what it says."""
    (folder / "spoiled.py").write_text(SPOILED.format(spoil=spoil))
    on_two_ranks(write_config(folder, steps=100_000, every_n_train_steps=5, save_on_exception=True), "spoiled.Spoiled")
    process = start(folder, PYTHONPATH=os.pathsep.join([str(folder), *sys.path]))
    return process, *end_of(process, 120)


def test_loss_that_is_spoilt_on_one_rank_ends_all(tmp_path, last):
    """Together, and with a checkpoint of the step before."""
    process, said, lines = spoilt_run(tmp_path, "loss * float('nan')")
    assert process.returncode == 2
    assert "Traceback" not in said
    assert any("the loss must be a finite number, and at step 7 it is not (task loss nan" in line for line in lines)
    assert any("finite number on every rank, and at step 7 it is not on another one. Its rows are" in line for line in lines)
    assert [path.name for path in (tmp_path / "run").glob("spoilt-batch-*")] == ["spoilt-batch-rank1.jsonl"]
    assert torch.load(last, weights_only=True)["global_step"] == 7


def test_error_on_one_rank_ends_all(tmp_path, last):
    """At once: it must not wait for the others to save a checkpoint, nor those for it to go on."""
    process, said, lines = spoilt_run(tmp_path, "1 / 0")
    assert process.returncode not in (0, None)
    assert "ZeroDivisionError" in said
    assert all("another rank of this run is gone" in line for line in lines)
    assert torch.load(last, weights_only=True)["global_step"] == 5
