"""What a finished run measured, with what it owes to the run that it goes on from."""

import json

import pytest

from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.results import is_done, read_result


@pytest.fixture
def runs(comparison):
    """A trained run, and one that goes on from it; both ended."""
    plan = Plan(comparison(methods={"sft": {}, "safe_lora": {"after": "sft"}}))
    sft, safe_lora = (plan.reported(name, {})[0] for name in ("sft", "safe_lora"))
    write(sft, {"before": 1.0, "after": 90.0, "steps": {"5": 40.0, "10": 80.0}}, seconds=100.0, memory=500.0)
    write(safe_lora, {"after": 70.0, "steps": {"10": 81.0}}, seconds=0.5, memory=600.0)
    return sft, safe_lora


def write(run, score, seconds, memory, template=None):
    facts = {"ended": True, "training_seconds": seconds, "peak_memory_mib": memory}
    facts["config"] = {"template": {"system": "be kind", "date": "2026-01-01"} | (template or {})}
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "summary.json").write_text(json.dumps({"version": 1, "run": facts, "safety/harmful_score": score}))


def test_it_has_the_scores_and_the_cost_of_its_training(runs):
    found = read_result(runs[1])
    assert found.scores == {"harmful_score_before": 1.0, "harmful_score": 70.0}
    assert found.steps == {"harmful_score": {5: 40.0, 10: 81.0}}
    assert found.costs == {"training_seconds": 100.5, "peak_memory_mib": 600.0}


def test_another_day_asks_alike(runs):
    write(runs[1], {"after": 70.0}, 0.5, 600.0, template={"date": "2026-01-02"})
    assert read_result(runs[1]).scores["harmful_score_before"] == 1.0


def test_scores_of_a_model_that_was_asked_otherwise_are_not_its_own(runs):
    write(runs[1], {"after": 70.0}, 0.5, 600.0, template={"safety_prompt": "refuse"})
    found = read_result(runs[1])
    assert (found.scores, found.steps) == ({"harmful_score": 70.0}, {})
    assert found.costs["training_seconds"] == 100.5


@pytest.mark.parametrize("content", [None, "{", '{"version": 1, "run": {"ended": false}}'])
def test_where_the_trained_run_is_gone_its_cost_is_not_known(runs, content):
    """And the rest is reported all the same."""
    file = runs[0].folder / "summary.json"
    file.unlink() if content is None else file.write_text(content)
    assert not is_done(runs[0])
    found = read_result(runs[1])
    assert (found.scores, found.costs) == ({"harmful_score": 70.0}, {})
