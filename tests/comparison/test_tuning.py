"""The choice, on results made by hand and on recorded ones."""

import json
from pathlib import Path

import pytest

from asft_lightning.comparison.results import Result
from asft_lightning.comparison.tuning import choose, rule
from asft_lightning.errors import ConfigurationError

SCORES = ("harmful_score", "accuracy")
CANDIDATES = [{"lambda": 1}, {"lambda": 3}, {"lambda": 10}]


def chosen(result, scores, margin=2.0, **attack):
    """``scores``: (HS, FA) of each of two seeds, for each setting."""
    results = [[result("asft", hs, fa, seed) for seed, (hs, fa) in enumerate(own)] for own in scores]
    return choose("asft", CANDIDATES[: len(scores)], results, margin, **attack)


def test_lowest_hs_within_the_margin_of_the_best_fa(result):
    """Means: (90, 99), (1, 97.5), (0, 95): the last is 4 points below the best FA."""
    choice = chosen(result, [[(80, 100), (100, 98)], [(0, 97), (2, 98)], [(0, 95), (0, 95)]])

    assert choice.setting == {"lambda": 3}
    assert list(choice.harmful_scores) == [90, 1, 0]
    assert list(choice.accuracies) == [99, 97.5, 95]
    assert choice.record()["candidates"][1] == {
        "setting": {"lambda": 3}, "harmful_score": 1, "accuracy": 97.5, "runs": 2,
    }  # fmt: skip
    assert "at most 2 points below the best" in rule(2.0)


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 1), (1.5, 3), (4.0, 10)])
def test_margin(result, margin, expected):
    scores = [[(90, 99), (90, 99)], [(1, 97.5), (1, 97.5)], [(0, 95), (0, 95)]]
    assert chosen(result, scores, margin).setting == {"lambda": expected}


def test_equal_hs_goes_to_the_higher_fa_then_to_the_first(result):
    assert chosen(result, [[(0, 97)], [(0, 98)], [(0, 98)]]).setting == {"lambda": 3}


def test_setting_without_runs_is_passed_over(result):
    choice = chosen(result, [[], [(50, 98)]])
    assert choice.setting == {"lambda": 3}
    assert list(choice.counts) == [0, 1]
    assert chosen(result, [[], []]).setting is None


def test_an_attacker_takes_the_highest_hs_that_still_works(result):
    """Means: (20, 90), (80, 71), (95, 69): with plain fine-tuning at 80 the last does not work."""
    scores = [[(10, 90), (30, 90)], [(80, 70), (80, 72)], [(95, 69), (95, 69)]]
    choice = chosen(result, scores, 10.0, attacks=True, best=80.0)
    assert (choice.setting, choice.best_accuracy) == ({"lambda": 3}, 90)
    assert chosen(result, scores, 10.0, attacks=True, best=79.0).setting == {"lambda": 10}
    assert chosen(result, scores, 10.0, attacks=True, best=90.0).setting == {"lambda": 1}
    assert chosen(result, scores, 10.0, attacks=True, best=101.0).setting is None
    assert chosen(result, [[(5, 80)], [(9, 81)], [(9, 82)]], 10.0, attacks=True, best=80.0).setting == {"lambda": 10}
    assert "highest mean HS among the settings whose mean FA is at most 10 points below the best of sft" in rule(10, "sft")


def test_runs_without_fa_cannot_be_chosen_from():
    results = [[Result("asft", {"seed": 7}, {"harmful_score": 1.0})]]
    with pytest.raises(ConfigurationError, match=r"needs HS and FA of every run, and asft's have \['harmful_score'\]\. Add"):
        choose("asft", CANDIDATES[:1], results, 2.0)


RECORDED = {
    "gram": ({"poison_ratio": 0.2, "learning_rate": 0.003}, 91.4),
    "activation": ({"poison_ratio": 0.2, "learning_rate": 0.003}, 41.4),
    "protect": ({"poison_ratio": 0.1, "learning_rate": 0.003}, 0.2),  # as at 0.009; 0.0 elsewhere
    "drift_budget": (None, None),  # its FA is 14 at best
}


@pytest.mark.parametrize("method", RECORDED)
def test_what_an_attacker_would_keep_of_recorded_runs(method):
    """Of poison ratios at one learning rate, and of learning rates at one ratio; FA of plain fine-tuning is 100 there."""
    runs = json.loads((Path(__file__).parents[2] / "docs" / "results" / "beyond-sandbox.json").read_text())["runs"]
    ours = {"method": method, "rank": 8, "targets": ["q_proj", "v_proj"]}
    tries = [(0.05, 0.003), (0.1, 0.003), (0.1, 0.0009), (0.1, 0.009), (0.2, 0.003)]
    candidates = [{"poison_ratio": p, "learning_rate": rate} for p, rate in tries]
    found = [[run for run in runs if {**ours, **candidate}.items() <= run.items()] for candidate in candidates]
    results = [[Result(method, {}, {name: run[name] for name in SCORES}) for run in of_one] for of_one in found]
    choice = choose(method, candidates, results, 10.0, attacks=True, best=100.0)
    harm = None if choice.chosen is None else round(choice.harmful_scores[choice.chosen], 1)
    assert (choice.setting, harm) == RECORDED[method]
