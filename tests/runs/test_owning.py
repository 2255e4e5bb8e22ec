"""A run's folder is one run's: nobody else is at work there, and what an earlier run left stands aside."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from kit.commands import said, start, write_config
from kit.kills import another, ends

from asft_lightning.cli import main
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.owning import owned, set_aside
from asft_lightning.runtime.files import write_atomically

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("seed_stays")]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is a fork")

SFT = ["--model=asft_lightning.LoRAFineTuner"]
BREAKS_OFF = ["--trainer.callbacks+=kit.tiny.EndAfter", "--trainer.callbacks.batches=1"]
MONITOR = ["--trainer.callbacks+=asft_lightning.AlignmentMonitor"]


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without(found, *names):
    return {path: data for path, data in found.items() if Path(path).parts[0] not in names}


def every_file(folder):
    """One for each name that is known of."""
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property) and name != "log"]
    found = [getattr(folder, name) for name in names]
    return [path if path.suffix else path / "file" for path in found] + [
        folder.generations("safety", Moment.AFTER), folder.spoilt_batch(0), folder.spoilt_batch(11),
        folder.path / "metrics.csv", folder.path / "hpc_ckpt_1.ckpt", folder.path / "test" / "metrics.csv",
    ]  # fmt: skip


def test_a_new_run_that_breaks_off_stands_beside_nothing_of_the_earlier_one(tmp_path, capsys):
    """It leaves what it would have left in an empty folder; the earlier run is whole, and told of."""
    config, run = write_config(tmp_path), tmp_path / "run"
    main(["fit", "--config", config, *MONITOR])
    main(["test", "--config", config])
    earlier = without(content(run), ".lock")
    for folder in (run, tmp_path / "empty"):
        with pytest.raises(RuntimeError, match="ended"):
            main(["fit", "--config", config, *SFT, *BREAKS_OFF, f"--trainer.default_root_dir={folder}"])
    left = content(run)

    assert without(left, "earlier-1").keys() == content(tmp_path / "empty").keys()
    assert not {"adapter", "anchors.safetensors", "checkpoints"} & set(os.listdir(run))
    assert content(run / "earlier-1") == earlier
    assert f"{run} held an earlier run, which is in {run / 'earlier-1'} from now on" in capsys.readouterr().out
    assert "holds no adapter" in said(capsys, "export", str(run), str(tmp_path / "out"))
    main(["export", str(run / "earlier-1"), str(tmp_path / "out")])


def test_every_name_that_is_known_is_moved_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    for file in every_file(folder):
        write_atomically(file, "earlier")
    kept = [folder.log, tmp_path / "notes.txt", tmp_path / "test" / "own.py"]
    for file in kept:
        write_atomically(file, "mine")
    before = content(tmp_path)
    assert set_aside(folder) == tmp_path / "earlier-1"
    assert sorted(content(tmp_path)) == sorted(
        [f"earlier-1/{path}" if data == b"earlier" else path for path, data in before.items()]
    )
    assert set_aside(folder) is None
    write_atomically(folder.summary, "second")
    shutil.rmtree(tmp_path / "earlier-1")
    (tmp_path / "earlier-3").mkdir()
    assert set_aside(folder) == tmp_path / "earlier-4"


@forks
def test_killed_at_every_step_of_moving(tmp_path):
    """The next new run goes on with it: nothing is lost, nothing is parted, and nothing is written over."""
    folder = RunFolder(tmp_path)
    for file in every_file(folder):
        write_atomically(file, file.name)
    whole, kills = content(tmp_path), 0
    while not ends(partial(set_aside, folder), kills):
        assert not folder.checkpoints.exists() or (tmp_path / "adapter").exists()  # else a run would go on in what is left
        kills += 1
    assert kills > 10
    assert content(tmp_path / "earlier-1") == whole and set(os.listdir(tmp_path)) == {"earlier-1", "test"}

    write_atomically(folder.summary, "first")
    (tmp_path / ".earlier").mkdir()
    folder.summary.rename(tmp_path / ".earlier" / "summary.json")
    write_atomically(folder.summary, "second")
    set_aside(folder)
    assert [(tmp_path / f"earlier-{i}" / "summary.json").read_text() for i in (2, 3)] == ["first", "second"]


def test_what_goes_on_is_no_new_run(tmp_path, monkeypatch):
    config, run = write_config(tmp_path, every_n_train_steps=1), tmp_path / "run"
    main(["fit", "--config", config, "--ckpt_path=auto"])
    rows = (run / "metrics.csv").read_text()
    with pytest.raises(SystemExit):  # there are no held-out rows
        main(["validate", "--config", config])
    main(["test", "--config", config])
    main(["fit", "--config", config, "--ckpt_path=auto", "--trainer.max_steps=3"])
    main(["fit", "--config", config, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "--trainer.max_steps=4"])
    for name, value in {"NTASKS": 1, "JOB_ID": 1, "JOB_NAME": "x", "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "hpc_ckpt_1.ckpt")  # as Lightning leaves it for a job's next start
    main(["fit", "--config", config, "--trainer.max_steps=5"])
    assert not list(run.glob("earlier-*"))
    assert (run / "metrics.csv").read_text().startswith(rows)


@pytest.mark.parametrize("held", [True, False])
def test_a_checkpoint_of_another_folder_begins_a_run_here(tmp_path, held):
    """What stands here of another run, or of none, does not speak for it."""
    config, there = write_config(tmp_path, every_n_train_steps=1), tmp_path / "there"
    if held:
        main(["fit", "--config", write_config(tmp_path / "other", "LoRAFineTuner"), f"--trainer.default_root_dir={there}"])
    main(["fit", "--config", config])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    main(["fit", "--config", config, f"--ckpt_path={last}", "--trainer.max_steps=3", f"--trainer.default_root_dir={there}"])
    run = json.loads((there / "summary.json").read_text())["run"]
    assert (run["method"], run["ended"]) == ("AsFT", True)
    assert (there / "earlier-1" / "summary.json").is_file() == held


def test_what_the_new_run_reads_is_still_there(tmp_path, capsys):
    """Its config is copied; of anything else an error tells before anything is moved."""
    config, run = write_config(tmp_path), tmp_path / "run"
    main(["fit", "--config", config])
    before = content(run)
    message = said(capsys, "fit", "--config", config, f"--model.init_args.adapter={run / 'checkpoints' / '..' / 'adapter'}")
    assert message.startswith(
        f"a new run sets aside what an earlier one left in its folder {run}, and is told to read {run}"
    )
    assert content(run) == before
    main(["fit", "--config", str(run / "config.yaml")])
    assert content(run / "earlier-1") == without(before, ".lock")
    assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == 1


@forks
def test_two_runs_at_once(tmp_path, capsys):
    config, run = write_config(tmp_path), tmp_path / "run"
    main(["fit", "--config", config])
    before = content(run)
    with another(owned(RunFolder(run))):
        for command in ("fit", "test"):
            expected = (
                f"{run} is one process's at a time, and another is at work there. Wait for it, or name another folder."
            )
            assert said(capsys, command, "--config", config) == expected
        assert content(run) == before
        main(["fit", "--config", config, f"--trainer.default_root_dir={tmp_path / 'other'}"])


def test_the_next_run_clears_what_a_killed_one_had_begun_to_write(tmp_path):
    config, run = write_config(tmp_path), tmp_path / "run"
    folder = RunFolder(run)
    for file in (folder.summary, folder.generations("safety", Moment.AFTER), folder.checkpoints / "last.ckpt"):
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not ends(partial(write_atomically, file, "x"), 3)
    assert len(list(run.rglob(".*.asft-unfinished"))) == 3
    main(["fit", "--config", config])
    assert not list(run.rglob("*.asft-unfinished"))


@pytest.mark.slow
def test_ranks_that_lightning_starts(tmp_path):
    """The first has the folder for all; they read the config that it sets aside, and one folder comes of it."""
    config, run = write_config(tmp_path), tmp_path / "run"
    main(["fit", "--config", config])
    shutil.copy(run / "config.yaml", config)
    process = start(run, "--trainer.devices=2", "--trainer.strategy=ddp")  # with the config in the run's folder
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    assert [path.name for path in run.glob("earlier-*")] == ["earlier-1"]
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["devices"] in (2, "2")
