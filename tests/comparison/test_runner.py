"""The runner beside another process, which is played: no run is started."""

import json

import pytest

from asft_lightning.comparison.claims import FAILED, Claims
from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.runner import Runner, RunsBar


@pytest.fixture
def runs(comparison):
    return Plan(comparison(methods={"sft": {}})).reported("sft", {})


@pytest.fixture
def beside(runs, monkeypatch, capsys):
    """Have all runs claimed elsewhere, and ``others`` act while the runner waits; what it said, and its failures."""

    def waited(others):
        folder = runs[0].folder.parent
        elsewhere = Claims(folder, "elsewhere")
        claims = [elsewhere.take(run.folder) for run in runs]
        runner = Runner(pytest.fail, Claims(folder, "here"), 2, 1, RunsBar(total=len(runs)))
        left = list(zip(runs, claims, strict=True))

        def wait(active, timeout):
            if left:
                others(*left.pop(0))
            return []

        monkeypatch.setattr("asft_lightning.comparison.runner.wait", wait)
        runner.run(runs)
        return capsys.readouterr().out, runner.failures

    return waited


def test_what_others_are_at_work_on_is_waited_for(runs, beside):
    def end(run, claim):
        (run.folder / "summary.json").write_text(json.dumps({"version": 1, "run": {"ended": True}}))

    said, failures = beside(end)
    assert said.splitlines() == [
        "waiting for 4 runs that other processes have; a dead one's is taken over after 120 seconds at most"
    ]
    assert not failures


def test_what_failed_elsewhere_is_not_tried_again(runs, beside):
    said, failures = beside(lambda run, claim: claim.end(FAILED + "no rows"))
    assert {name: failure.reason for name, failure in failures.items()} == {run.name: "no rows" for run in runs}
    assert all(f"failed: {run.name}: no rows" in said for run in runs)


@pytest.fixture
def after(comparison):
    """A trained run, and one that goes on from it."""
    plan = Plan(comparison(methods={"sft": {}, "safe_lora": {"after": "sft"}}, axes={"poison_ratio": [0], "seed": [0]}))
    return [plan.reported(name, {})[0] for name in ("sft", "safe_lora")]


def failures_of(runs, folder):
    """What becomes of runs of which none can be begun."""
    runner = Runner(pytest.fail, Claims(folder, "here"), 2, 1, RunsBar(total=len(runs)))
    runner.run(runs)
    return {failure.run: failure.reason for failure in runner.failures.values()}


def test_a_run_whose_need_failed_is_not_begun(after):
    trained, going_on = after
    elsewhere = Claims(trained.folder.parent, "elsewhere")
    here = Claims(trained.folder.parent, "here")
    elsewhere.take(trained.folder).end(FAILED + "no rows")
    runner = Runner(pytest.fail, here, 2, 1, RunsBar(total=2))
    runner.run([going_on])
    reasons = {name: failure.reason for name, failure in runner.failures.items()}
    assert reasons == {trained.name: "no rows", going_on.name: f"{trained.name}, which it needs, failed"}


def test_a_checkpoint_that_is_gone_is_said_with_what_to_do(after):
    trained, going_on = after
    trained.folder.mkdir(parents=True)
    (trained.folder / "summary.json").write_text(json.dumps({"version": 1, "run": {"ended": True}}))
    found = failures_of([trained, going_on], trained.folder.parent)
    assert found == {
        going_on.name: f"{going_on.checkpoint}, which it goes on from, is gone, or was never written "
        "(trainer.enable_checkpointing, or a ModelCheckpoint without save_last). Remove "
        f"{trained.folder}, and that run is trained anew"
    }
