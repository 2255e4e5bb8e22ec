"""Judges in a config: those of the package, and one's own with no more than the call."""

from collections.abc import Sequence

import pytest
from jsonargparse import ArgumentParser

from asft_lightning.evaluation import Judge, RefusalJudge, Verdict
from asft_lightning.evaluation import judges as package


class OwnJudge:
    """All that a judge needs."""

    def __init__(self, word: str):
        self.word = word

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict(self.word in answer) for answer in answers]


class Asks:
    """What a callback does with its argument."""

    def __init__(self, judge: Judge | None = None):
        self.judge = judge


def from_config(name, **settings):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Asks, "callback")
    config = parser.parse_object({"callback": {"judge": {"class_path": name, "init_args": settings}}})
    return parser.instantiate(config).callback.judge


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("RefusalJudge", {"window": 9}),
        ("ClassifierJudge", {"model": "org/model", "unsafe": ["bad"], "max_length": 9}),
        ("BeaverDamJudge", {"threshold": 0.3}),
        ("GuardJudge", {"categories": {"S1": "Fire"}}),
        ("EndpointJudge", {"endpoint": {"url": "http://localhost:1/v1", "model": "m"}, "question": "{answer}?"}),
    ],
)
def test_every_judge_can_stand_in_a_config_and_be_released_before_it_is_used(name, settings):
    judge = from_config(f"asft_lightning.evaluation.{name}", **settings)
    assert isinstance(judge, getattr(package, name))
    plain = {key: value for key, value in settings.items() if hasattr(judge, key) and key != "endpoint"}
    assert all(getattr(judge, key) == value for key, value in plain.items())
    judge.release()


def test_ones_own_judge_needs_no_more_than_the_call():
    judge = from_config(f"{__name__}.OwnJudge", word="b")
    assert judge([""] * 2, ["ab", "cd"]) == [Verdict(True), Verdict(False)]


def test_verdict_says_no_more_than_it_knows():
    assert Verdict(None, problem="down") == (None, (), None, "down")
    assert RefusalJudge()([""], [""]) == [(False, (), None, None)]
