"""``asft-lightning compare`` with real runs of the tiny pair: killed in the middle, gone on with, reported."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from kit.commands import FORKED
from kit.forks import wait_until
from kit.sweep import Sweep, write_comparison
from safetensors.torch import load_file

from asft_lightning.cli import main
from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.results import COSTS

pytestmark = FORKED


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Begun, killed after three runs, and gone on with; what was done when it was killed is ``before``.

    What was found then is kept: other tests begin it again, in any order.
    """
    found = Sweep(tmp_path_factory.mktemp("sweep"))
    write_comparison(found.folder)
    pid = found.begin()
    wait_until(lambda: len(found.done()) >= 3)
    os.kill(pid, signal.SIGKILL)
    assert found.ended() == -signal.SIGKILL
    found.before = found.done()
    time.sleep(3)
    found.later = found.done()
    found.begin()
    found.status, found.content, found.said = found.ended(), found.results(), found.log.read_text()
    found.broken = [Path(failure["log"]).read_text() for failure in found.content["failures"]]
    yield found
    found.forks.close()


def test_runs_end_with_the_command_that_started_them(sweep):
    """A run takes about a second: one that lived on would have ended meanwhile."""
    assert len(sweep.later) <= len(sweep.before) + 1  # one may have ended between the last look and the kill


def test_nothing_is_done_twice_and_nothing_lost(sweep):
    assert sweep.done().items() >= sweep.before.items()
    methods = [run["method"] for run in sweep.content["runs"]]
    assert sorted(methods) == [name for name in ("asft", "asft_alt", "sft", "shrunk") for _ in range(2)]
    assert sorted(name.split("-")[0] for name in sweep.done()) == sorted([*methods, "asft", "asft", "first", "first"])


def test_failures_are_listed_and_the_rest_completes(sweep):
    assert sweep.status == 1
    failures = sweep.content["failures"]
    assert [failure["run"].split("-")[0] for failure in failures] == ["broken", "broken"]
    assert len(sweep.content["missing"]) == 2
    for failure, log in zip(failures, sweep.broken, strict=True):
        assert "num_rows" in failure["reason"]
        assert "\n" not in failure["reason"]
        assert failure["reason"] in log
    assert "failed: broken" in sweep.said


def test_results_say_all_that_was_measured(sweep):
    content = sweep.content
    run = content["runs"][0]
    summary = json.loads((Path(run["folder"]) / "summary.json").read_text())

    assert run["harmful_score"] == summary["safety/harmful_score"]["after"]
    assert run["accuracy_before"] == summary["utility/accuracy"]["before"]
    assert 0 < run["training_seconds"] < 60
    assert 100 < run["peak_memory_mib"] < 10_000
    assert content["tuning"]["methods"][0]["chosen"]["lambda"] in (1, 3)
    assert [line["runs"] for line in content["tuning"]["methods"][0]["candidates"]] == [1, 1]
    assert (sweep.folder / "out" / "report.html").is_file()


def test_failed_runs_alone_are_tried_again(sweep):
    done = sweep.done()
    logs = {path: path.stat().st_mtime_ns for path in (sweep.folder / "out" / "runs").glob("broken*/log.txt")}
    sweep.begin()
    assert sweep.ended() == 1
    assert sweep.done() == done
    assert len(logs) == 2
    assert all(path.stat().st_mtime_ns > at for path, at in logs.items())


def test_ctrl_c_ends_the_runs_too(sweep):
    logs = list((sweep.folder / "out" / "runs").glob("broken*/log.txt"))
    for log in logs:
        log.unlink()
    pid = sweep.begin()
    wait_until(lambda: all(log.exists() for log in logs))
    os.kill(pid, signal.SIGINT)
    assert sweep.ended() == 128 + signal.SIGINT
    assert "ended by Ctrl-C; what is done is kept, and the same command goes on" in sweep.log.read_text()
    assert "Traceback" not in sweep.log.read_text()


def test_report_only_runs_nothing(sweep):
    logs = {path: path.stat().st_mtime_ns for path in (sweep.folder / "out" / "runs").glob("*/log.txt")}
    (sweep.folder / "out" / "report.html").unlink()
    (sweep.folder / "out" / ".report.html.0.asft-unfinished").touch()  # of one that was killed
    sweep.begin("--report_only=true")
    assert sweep.ended() == 0
    assert not list((sweep.folder / "out").glob(".*.asft-unfinished"))
    assert {path: path.stat().st_mtime_ns for path in (sweep.folder / "out" / "runs").glob("*/log.txt")} == logs
    assert (sweep.folder / "out" / "report.html").is_file()


@pytest.mark.parametrize("method", ["asft_alt", "shrunk"])
def test_weights_are_those_of_the_command_in_the_log(sweep, tmp_path, method):
    """Typed into a shell, in a process that imports everything itself; of what goes on from a trained run, trained anew."""
    (run,) = [r for r in Plan(load_comparison(sweep.folder / "comparison.yaml")).reported(method, {}) if r.axes["seed"] == 1]
    line = (run.folder / "log.txt").read_text().splitlines()[0]
    assert line.startswith("$ asft-lightning fit ") and line.endswith(" --threads=1")
    command = line.removeprefix("$ ").replace(str(run.folder), str(tmp_path))
    if run.trained:
        going_on = f" --ckpt_path={run.trained.folder}/checkpoints/last.ckpt"
        assert going_on in command
        command = command.replace(going_on, "")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["ASFT_LIGHTNING_CACHE"] = str(sweep.folder / "cache")
    subprocess.run(command, shell=True, env=environment, check=True, capture_output=True)
    ours, theirs = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (run.folder, tmp_path))

    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert any(bool(value.any()) for name, value in ours.items() if "lora_B" in name)
    anew, reported = (json.loads((f / "summary.json").read_text()) for f in (tmp_path, run.folder))
    assert {name: score["after"] for name, score in anew.items() if "/" in name} == {
        name: score["after"] for name, score in reported.items() if "/" in name
    }


def test_what_goes_on_from_a_trained_run_trains_nothing_and_costs_what_that_cost(sweep):
    runs = {(run["method"], run["seed"]): run for run in sweep.content["runs"]}
    for seed in (0, 1):
        sft, shrunk = runs["sft", seed], runs["shrunk", seed]
        own = json.loads((Path(shrunk["folder"]) / "summary.json").read_text())
        assert shrunk["training_seconds"] == sft["training_seconds"] + own["run"]["training_seconds"]
        assert shrunk["peak_memory_mib"] >= sft["peak_memory_mib"]
        with (Path(shrunk["folder"]) / "metrics.csv").open() as file:
            assert {row["step"] for row in csv.DictReader(file)} == {"4"}  # the last one
        assert json.loads((Path(shrunk["folder"]) / "projection.json").read_text())


def claims_of(folder):
    """(run, process, how it ended or None) of each claim."""
    claims = {path: path.read_text().splitlines() for path in folder.glob("runs/*/.claim-*")}
    written = {path: lines for path, lines in claims.items() if lines}  # one is made first, then written
    return [(path.parent.name, int(owner.split()[0]), *(end or [None])) for path, (owner, *end) in written.items()]


def without_time_and_place(content):
    """A report, but for what a second process of the same comparison may measure otherwise."""
    place = str(Path(content["comparison"]["output"]))
    asked = {key: value for key, value in content["comparison"].items() if key not in ("output", "jobs")}
    told = json.dumps({**content, "comparison": asked}).replace(place, "")
    return json.loads(told, object_hook=lambda part: {key: value for key, value in part.items() if key not in COSTS})


def test_two_commands_share_the_runs_and_one_is_killed(sweep):
    """In the middle of a run, which the other then does; the report is that of one command."""
    folder = sweep.folder / "shared"
    content = yaml.safe_load((sweep.folder / "comparison.yaml").read_text())
    (sweep.folder / "shared.yaml").write_text(yaml.safe_dump(content | {"output": str(folder), "jobs": 1}, sort_keys=False))
    killed, other = sweep.forks.begin(["compare", sweep.folder / "shared.yaml"], copies=2)

    def is_at_work_and_has_done_one():
        ends = {end for _, process, end in claims_of(folder) if process == killed}
        return {None, "done"} <= ends

    wait_until(is_at_work_and_has_done_one)
    os.kill(killed, signal.SIGKILL)
    assert sweep.forks.statuses() == [-signal.SIGKILL, 1]  # some run is broken
    (at_work,) = [run for run, process, end in claims_of(folder) if (process, end) == (killed, None)]

    found, claims = json.loads((folder / "results.json").read_text()), claims_of(folder)
    assert without_time_and_place(found) == without_time_and_place(sweep.content)
    assert Counter(run for run, _, end in claims if end == "done") == Counter(list(sweep.done()))
    (left, (process, end)) = [(process, end) for run, process, end in sorted(claims) if run == at_work]
    assert (left, process) == ((killed, None), other)
    assert end.startswith("failed: ") if at_work.startswith("broken") else end == "done"


def test_an_attacker_searches_each_method(sweep):
    """Of four settings within a budget of two; what is kept of each method is run at the reported seed."""
    content = yaml.safe_load((sweep.folder / "comparison.yaml").read_text())
    sft, asft = content["methods"]["sft"], {**content["methods"]["asft"], "axes": {"lambda": [1]}}
    search = {
        "settings": {"trainer.max_epochs": "$epochs", "model.init_args.optimizer.init_args.lr": "$learning_rate"},
        "tries": {"learning_rate": [0.001, 0.1], "epochs": [1, 2]},
        "axes": {"poison_ratio": [0.5], "seed": [7]}, "reference": "sft", "budget": 2, "margin": 100,
    }  # fmt: skip
    methods = {"sft": sft, "asft": {name: part for name, part in asft.items() if name != "tune"}}
    own = {"output": str(sweep.folder / "searched"), "axes": {"poison_ratio": [0.25], "seed": [0]}, "methods": methods}
    (sweep.folder / "searched.yaml").write_text(yaml.safe_dump(content | own | {"search": search}, sort_keys=False))
    sweep.forks.run(["compare", sweep.folder / "searched.yaml"])

    found = json.loads((sweep.folder / "searched" / "results.json").read_text())
    kept = {choice["method"]: choice for choice in found["search"]["methods"]}
    assert [len(choice["candidates"]) for choice in kept.values()] == [2, 2]
    for run, line in zip(found["attacked"], found["headline"], strict=True):
        choice = kept[run["method"]]
        assert choice["chosen"].items() <= run.items()
        (best,) = [tried for tried in choice["candidates"] if tried["setting"] == choice["chosen"]]
        assert best["harmful_score"] == max(tried["harmful_score"] for tried in choice["candidates"])
        assert (run["seed"], run["poison_ratio"]) == (0, 0.5)
        assert run["settings"]["model.init_args.optimizer.init_args.lr"] == run["learning_rate"]
        assert line["found"] == f"p 0.5, learning_rate {run['learning_rate']:g}, epochs {run['epochs']}"
        assert line["searched"]["mean"] == run["harmful_score"]
    assert len(found["attacked"]) == len(found["runs"]) == 2


def test_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["compare", str(tmp_path / "absent.yaml")])
    assert exit_info.value.code == 2
    assert "a config must be a YAML file or one of" in capsys.readouterr().err
