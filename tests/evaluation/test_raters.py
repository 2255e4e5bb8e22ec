"""EndpointRater against a real server on this machine: what it asks, and which replies are ratings."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.worlds import asked, rater_at, serving, unchanged_rng

from asft_lightning import ConfigurationError
from asft_lightning.evaluation import Rating
from asft_lightning.evaluation.endpoint_client import Reply

AXES = {"help": "it does what was asked", "tone": "it is polite"}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def tone_rater(url, **settings):
    return rater_at(url, **{"axes": AXES, "retries": 0, "timeout": 5, **settings})


def rated(said, **settings):
    """The rating of one answer where the server says this."""
    with serving(lambda body: said) as server:
        (rating,) = tone_rater(server.url, **settings)(["p"], ["a"], ["r"])
    return rating


def test_ratings_are_those_of_each_answer_in_order():
    def rate(body):
        number = int(asked(body).split("[answer]\n")[1].split("\n")[0])
        return json.dumps({"help": number, "tone": 10 - number})

    with serving(rate) as server, unchanged_rng():
        ratings = tone_rater(server.url)(["p"] * 9, [str(i) for i in range(1, 10)], [""] * 9)

    assert ratings == [Rating({"help": float(i), "tone": float(10 - i)}) for i in range(1, 10)]
    assert all(body["temperature"] == 0 and body["max_tokens"] == 200 for body in server.bodies)
    assert all(len(body["messages"]) == 1 and body["messages"][0]["role"] == "user" for body in server.bodies)


def test_question_names_axes_range_prompt_answer_and_reference():
    question = tone_rater("http://localhost:1", lowest=0, highest=2.5)
    text = question.question("How?", "So.", "Thus.")

    assert "from 0 (lowest) to 2.5 (highest)" in text
    assert "- help: it does what was asked\n- tone: it is polite\n" in text
    assert "[prompt]\nHow?\n[/prompt]" in text
    assert "[answer]\nSo.\n[/answer]" in text
    assert "[reference answer]\nThus.\n[/reference answer]" in text
    assert text.endswith('{"help": number, "tone": number}')


@pytest.mark.parametrize("reference", ["", " \n"])
def test_blank_reference_is_left_out(reference):
    assert "reference" not in tone_rater("http://localhost:1").question("How?", "So.", reference)


def test_nothing_in_what_is_rated_is_interpreted():
    text = tone_rater("http://localhost:1").question("{answer} {axes}", "{prompt} \\1 {form}", "{reference} {0}")
    assert "[prompt]\n{answer} {axes}\n" in text
    assert "[answer]\n{prompt} \\1 {form}\n" in text
    assert "[reference answer]\n{reference} {0}\n" in text


@pytest.mark.parametrize(
    "said",
    [
        '{"help": 3, "tone": 4.5}',
        '```json\n{"help": 3, "tone": 4.5}\n```',
        'I would say {so}: {"tone": 4.5, "why": {"a": [1]}, "help": 3} and {"help": 9, "tone": 9}',
        '\n\n{"help": 3.0,\n "tone": 45e-1}',
        "{{{" + '{"help": 3, "tone": 4.5}',
    ],
)
def test_first_json_object_is_the_rating(said):
    assert rated(said) == Rating({"help": 3.0, "tone": 4.5})


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"help": 3}', "tone absent"),
        ("{}", "help absent, tone absent"),
        ('{"help": 3, "tone": null}', "tone None"),
        ('{"help": 3, "tone": "4"}', "tone '4'"),
        ('{"help": 3, "tone": true}', "tone True"),
        ('{"help": 3, "tone": NaN}', "tone nan"),
        ('{"help": 3, "tone": Infinity}', "tone inf"),
        ('{"help": 0.99, "tone": 4}', "help 0.99"),
        ('{"help": 3, "tone": 10.01}', "tone 10.01"),
        ('{"help": 3, "tone": [4]}', "tone [4]"),
        ('{"help": 3, "tone": 1' + "0" * 400 + "}", "tone 1000000000000000000…"),
        ('{"scores": {"help": 3, "tone": 4}}', "help absent, tone absent"),
    ],
)
def test_scores_that_are_none(said, found):
    assert rated(said) == Rating(None, f"scores must be numbers from 1 to 10, got {found}")


@pytest.mark.parametrize(("lowest", "highest"), [(1, 10), (0, 1), (-2.5, 2.5)])
def test_both_ends_of_the_range_are_in_it(lowest, highest):
    said = json.dumps({"help": lowest, "tone": highest})
    assert rated(said, lowest=lowest, highest=highest) == Rating({"help": lowest, "tone": highest})


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("Ten out of ten.", "said no JSON object, but 'Ten out of ten.'"),
        ("[3, 4]", "said no JSON object, but '[3, 4]'"),
        ('{"help": 3, "tone', 'said no JSON object, but \'{"help": 3, "tone\''),
        ("", "said no JSON object, but ''"),
        ('{"a":' * 2_000, "said no JSON object, but "),
        (b"{", "JSONDecodeError: "),
        (b"{}", "the reply is no chat completion"),
        (500, "no request to "),
        (404, "NotFoundError 404: "),
        (None, "no request to "),
    ],
)
def test_replies_that_are_no_rating(said, problem):
    rating = rated(said)
    assert rating.scores is None
    assert rating.problem.startswith(problem)
    assert len(rating.problem) < 200


@given(st.tuples(st.sampled_from(["", "{", '{"help": 1, "tone":']), st.text()).map("".join))
def test_no_text_fails(said):
    rating = tone_rater("http://localhost:1")._rating(Reply(said))
    assert (rating.scores is None) == (rating.problem is not None)
    assert rating.scores is None or all(1 <= score <= 10 for score in rating.scores.values())


def test_nothing_to_rate_asks_nobody():
    with serving(lambda body: "{}") as server:
        assert tone_rater(server.url)([], [], []) == []
    assert server.bodies == []


@pytest.mark.parametrize("rows", [(["a", "b"], ["a"], ["r"]), (["a"], ["a"], [])])
def test_every_prompt_needs_its_answer_and_reference(rows):
    with pytest.raises(ValueError, match="shorter"):
        tone_rater("http://localhost:1")(*rows)


@pytest.mark.parametrize("axes", [{}, {"": "good"}, {"help": " "}])
def test_axes_that_say_nothing(axes):
    with pytest.raises(
        ConfigurationError, match=r"axes must be names and what they mean, at least one, got .*Write e.g. \{help"
    ):
        tone_rater("http://localhost:1", axes=axes)


@pytest.mark.parametrize(("lowest", "highest"), [(1, 1), (10, 1), (math.nan, 1), (1, math.inf)])
def test_range_that_holds_nothing(lowest, highest):
    with pytest.raises(ConfigurationError, match=rf"lowest must be less than its highest, both finite, got {lowest} and"):
        tone_rater("http://localhost:1", lowest=lowest, highest=highest)


def test_endpoints_settings_are_checked():
    with pytest.raises(ConfigurationError, match=r"concurrency must be 1 or more, got 0"):
        tone_rater("http://localhost:1", concurrency=0)
