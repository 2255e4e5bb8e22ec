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
