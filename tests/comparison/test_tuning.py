"""The choice, on results made by hand."""

import pytest

from asft_lightning.comparison.results import Result
from asft_lightning.comparison.tuning import choose, rule
from asft_lightning.errors import ConfigurationError

CANDIDATES = [{"lambda": 1}, {"lambda": 3}, {"lambda": 10}]


def chosen(result, scores, margin=2.0):
    """``scores``: (HS, FA) of each of two seeds, for each setting."""
    results = [[result("asft", hs, fa, seed) for seed, (hs, fa) in enumerate(own)] for own in scores]
    return choose("asft", CANDIDATES[: len(scores)], results, margin)


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


def test_runs_without_fa_cannot_be_chosen_from():
    results = [[Result("asft", {"seed": 7}, {"harmful_score": 1.0})]]
    with pytest.raises(ConfigurationError, match=r"needs HS and FA of every run, and asft's have \['harmful_score'\]\. Add"):
        choose("asft", CANDIDATES[:1], results, 2.0)
