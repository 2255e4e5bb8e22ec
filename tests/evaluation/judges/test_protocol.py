"""Judges in a config: those of the package, and one's own with no more than the call."""

from collections.abc import Sequence

import pytest
from kit import tiny

from asft_lightning import ConfigurationError, Row, SafetyEvaluation, Source
from asft_lightning.evaluation import Judge, Rater, RefusalJudge, Verdict
from asft_lightning.evaluation import judges as package
from asft_lightning.runtime.short_errors import ShortErrors


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


class Bare:
    """Annotated with nothing, under other names."""

    def __call__(self, questions, replies, is_strict=False):
        return [Verdict(False) for _ in replies]


def bare(questions, replies):
    return [Verdict(False) for _ in replies]


class NeedsMore:
    def __call__(self, prompts, answers, references):
        return []


class NoCall:
    def judge(self, prompts, answers):
        return []


class AsksRater:
    def __init__(self, judge: Rater):
        self.judge = judge


def from_config(name, asks=Asks, **settings):
    parser = ShortErrors(exit_on_error=True)
    parser.add_class_arguments(asks, "callback")
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


@pytest.mark.parametrize("name", ["Bare", "bare"])
def test_what_counts_is_what_it_does(name):
    """Not what its arguments are called, nor how they are annotated; a function will do."""
    parser = ShortErrors()
    parser.add_class_arguments(Asks, "callback")
    judge = parser.instantiate(parser.parse_args([f"--callback.judge={__name__}.{name}"])).callback.judge
    assert judge(["a"], ["b"]) == [Verdict(False)]


@pytest.mark.parametrize(
    ("name", "asks", "message"),
    [
        ("NoCall", Asks, r"NoCall is no Judge: that is called with \(prompts, answers\), and it has no __call__"),
        ("NeedsMore", Asks, r"is no Judge: that is .*\(prompts, answers\), and it takes \(prompts, answers, references\)"),
        ("bare", AsksRater, r"is no Rater: .*\(prompts, answers, references\), and it takes \(questions, replies\)"),
    ],
)
def test_the_error_says_what_is_missing(name, asks, message):
    with pytest.raises(ConfigurationError, match=message):
        from_config(f"{__name__}.{name}", asks)
    parser = ShortErrors()
    parser.add_class_arguments(asks, "callback")
    with pytest.raises(ConfigurationError, match=message):
        parser.parse_args([f"--callback.judge={__name__}.{name}"])


def test_what_is_no_verdict_is_told(tmp_path):
    prompts = tiny.write_rows(tmp_path / "unsafe.jsonl", [{"instruction": "a", "output": ""}])
    scorer = SafetyEvaluation(prompts=Source(prompts), judge=lambda prompts, answers: [True for _ in answers])
    with pytest.raises(ConfigurationError, match=r"a judge must give a Verdict an answer, got True\. Return Verdict"):
        scorer.score([Row("a", "")], ["b"], scorer.metrics())


def test_verdict_says_no_more_than_it_knows():
    assert Verdict(None, problem="down") == (None, (), None, "down")
    assert RefusalJudge()([""], [""]) == [(False, (), None, None)]
