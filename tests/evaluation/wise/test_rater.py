"""WiseRater against a real server on this machine: what it sends, which replies are ratings, and what is kept."""

import json

import pytest
from kit.wise import png, rating_of, records, save_images, save_records, seen
from kit.worlds import serving, unchanged_rng

from asft_lightning import ConfigurationError, Endpoint
from asft_lightning.errors import DataError
from asft_lightning.evaluation.wise import ImageRating, KeptReplies, WiseRater, find_images, read_records

IDS = [1, 2, 401, 402]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def benchmark(tmp_path):
    """Four records, and images of them."""
    kept = [record for record in records() if record["prompt_id"] in IDS]
    found = read_records(save_records(tmp_path / "records.json", kept), "legacy")
    return found, find_images(save_images(tmp_path / "images", IDS), IDS)


def rater_at(server, **settings):
    return WiseRater(Endpoint(server.url, "vision", retries=0, timeout=5), **settings)


def rated(behave, benchmark, kept, **settings):
    """The ratings, and what the server was asked."""
    with serving(behave) as server, unchanged_rng():
        ratings = rater_at(server, **settings).rate(*benchmark, KeptReplies(kept))
    return ratings, server.bodies


def test_each_image_is_asked_about_once_with_its_explanation(benchmark, tmp_path):
    ratings, bodies = rated(lambda body: json.dumps(rating_of(seen(body)[0])), benchmark, tmp_path / "kept.jsonl")
    texts = {seen(body)[0]: body["messages"][0]["content"][0]["text"] for body in bodies}

    assert ratings == {i: ImageRating(rating_of(i)) for i in IDS}
    assert len(bodies) == 4
    assert all(f"[prompt]\nprompt {i}\n[/prompt]" in texts[i] for i in IDS)
    assert all(f"[explanation]\nexplanation {i}\n[/explanation]" in texts[i] for i in IDS)
    assert all(body["temperature"] == 0 and body["model"] == "vision" for body in bodies)


def test_what_is_no_rating_is_asked_once_more_in_the_same_conversation(benchmark, tmp_path):
    def behave(body):
        number, times = seen(body)
        return json.dumps(rating_of(number)) if times or number != 2 else "A fine image."

    ratings, bodies = rated(behave, benchmark, tmp_path / "kept.jsonl")
    again = bodies[-1]["messages"]

    assert ratings[2] == ImageRating(rating_of(2))
    assert len(bodies) == 5
    assert again[1] == {"role": "assistant", "content": "A fine image."}
    assert again[2]["role"] == "user" and "JSON object alone" in again[2]["content"]


def test_nothing_is_asked_a_third_time_nor_after_a_restart(benchmark, tmp_path):
    kept = tmp_path / "kept.jsonl"
    ratings, bodies = rated(lambda body: '{"consistency": 2}', benchmark, kept)
    again, none = rated(lambda body: "unused", benchmark, kept)

    assert len(bodies) == 8 and not none
    assert again == ratings == dict.fromkeys(
        IDS, ImageRating(None, "ratings must be whole numbers from 0 to 2, got realism absent, aesthetics absent")
    )  # fmt: skip
    assert [json.loads(line)["reply"] for line in kept.read_text().splitlines()] == ['{"consistency": 2}'] * 8


def test_what_failed_is_asked_again_after_a_restart_and_the_rest_is_not(benchmark, tmp_path):
    kept = tmp_path / "kept.jsonl"
    first, _ = rated(lambda body: 400 if seen(body)[0] == 402 else json.dumps(rating_of(seen(body)[0])), benchmark, kept)
    with kept.open("a") as file:
        file.write('{"id": 402, "rep')  # a killed run leaves half of a line
    second, bodies = rated(lambda body: json.dumps(rating_of(seen(body)[0])), benchmark, kept)

    assert first[402].ratings is None and first[402].problem.startswith("BadRequestError 400")
    assert [seen(body)[0] for body in bodies] == [402]
    assert second == {i: ImageRating(rating_of(i)) for i in IDS}


def test_another_image_model_or_instruction_is_asked_about_anew(benchmark, tmp_path):
    def behave(body):
        return json.dumps(rating_of(seen(body)[0]))

    found, images = benchmark
    kept, own = tmp_path / "kept.jsonl", tmp_path / "own.txt"
    rated(behave, benchmark, kept)
    images[401].write_bytes(png(7))
    assert [seen(body)[0] for body in rated(behave, benchmark, kept)[1]] == [7]
    own.write_text("{prompt}? {explanation}! {other}")
    _, bodies = rated(behave, benchmark, kept, instructions=str(own))
    assert {body["messages"][0]["content"][0]["text"] for body in bodies} == {
        f"{record.prompt}? {record.explanation}! {{other}}" for record in found
    }


@pytest.mark.parametrize(("version", "said", "found"), [
    ("legacy", '{"consistency": 2, "realism": 1, "aesthetics": 0}', [2, 1, 0]),
    ("legacy", 'Sure: ```{"aesthetics": 0, "realism": 1, "consistency": 2, "why": "."}```', [2, 1, 0]),
    ("legacy", '{"consistency": 3, "realism": 1, "aesthetics": 0}', "got consistency 3"),
    ("legacy", '{"consistency": 1.0, "realism": 1, "aesthetics": 0}', "got consistency 1.0"),
    ("legacy", '{"consistency": "2", "realism": true, "aesthetics": -1}', "got consistency '2', realism True, aes"),
    ("legacy", "Consistency: 2, Realism: 1, Aesthetics: 0", "said no JSON object, but 'Consistency: 2"),
    ("verified", '{"correct": 1}', [1]),
    ("verified", '{"correct": 2}', "from 0 to 1, got correct 2"),
    ("verified", '{"consistency": 2, "realism": 1, "aesthetics": 0}', "got correct absent"),
])  # fmt: skip
def test_replies_that_are_ratings(version, said, found):
    rating = WiseRater(Endpoint("http://localhost:1", "m"), version).parse(said)
    if isinstance(found, list):
        assert list(rating.ratings.values()) == found
    else:
        assert rating.ratings is None and found in rating.problem


@pytest.mark.parametrize(("behave", "cause"), [
    (lambda body: 400, "BadRequestError 400"),
    (lambda body: 503, "InternalServerError 503"),
    (lambda body: b"<html>", "JSONDecodeError"),
    (lambda body: None, "APIConnectionError"),
])  # fmt: skip
def test_endpoint_that_sees_nothing_is_given_up_after_three(benchmark, tmp_path, behave, cause):
    with serving(behave) as server, pytest.raises(ConfigurationError) as error:
        rater_at(server).rate(*benchmark, KeptReplies(tmp_path / "kept.jsonl"))
    assert len(server.bodies) == 3
    assert "must answer questions about images, and 'vision' at http://127.0.0.1" in str(error.value)
    assert cause in str(error.value) and "Name a vision model" in str(error.value)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("1.jpg", b"\xff\xd8\xff", r"one image, got .*1.png and .*1.jpg. Take one away"),
    ("2.png", b"<html>", r"2.png must be a PNG, JPEG or WebP image, and begins with b'<html>'"),
    ("2.png", b"", r"2.png must be .*begins with b''"),
])  # fmt: skip
def test_files_that_are_no_image_or_too_many(benchmark, tmp_path, name, content, message):
    (tmp_path / "images" / name).write_bytes(content)
    with serving(lambda body: "") as server, pytest.raises(DataError, match=message):
        rater_at(server).rate(benchmark[0], find_images(str(tmp_path / "images"), IDS), KeptReplies(tmp_path / "kept.jsonl"))
    assert not server.bodies


def test_folders_without_images(tmp_path):
    with pytest.raises(ConfigurationError, match=r"images must be a folder, and .*none is none. Name that of the images"):
        find_images(str(tmp_path / "none"), IDS)
    with pytest.raises(DataError, match=r"must hold the prompts' images, and has none. Name each by its prompt's id"):
        find_images(save_images(tmp_path / "images", [403]), IDS)


@pytest.mark.parametrize("line", ["{", "[]", '{"key": 1, "reply": "x"}', '{"key": "x"}'])
def test_replies_that_are_something_else(tmp_path, line):
    (tmp_path / "kept.jsonl").write_text(f'{{"key": "a", "reply": "b"}}\n{line}\n')
    with pytest.raises(ConfigurationError, match=r"must hold a reply a line, and line 2 is none .*Take that line out"):
        KeptReplies(tmp_path / "kept.jsonl")


def test_instructions_without_the_explanation(tmp_path):
    (tmp_path / "own.txt").write_text("Is it like {prompt}?")
    endpoint = Endpoint("http://localhost:1", "m")
    with pytest.raises(ConfigurationError, match=r"own.txt lacks \{explanation\}. Write them there"):
        WiseRater(endpoint, instructions=str(tmp_path / "own.txt"))
    with pytest.raises(ConfigurationError, match=r"none.txt cannot be read as instructions"):
        WiseRater(endpoint, instructions=str(tmp_path / "none.txt"))


def test_conversations_are_made_when_it_is_their_turn():
    """A thousand images would not fit into memory; replies are told as they come, each with its place."""
    made, told = [], {}

    class Made(list):
        def __getitem__(self, place):
            made.append(place)
            return [{"role": "user", "content": str(super().__getitem__(place))}]

    def behave(body):
        assert len(made) <= len(told) + 2
        return body["messages"][0]["content"]

    with serving(behave) as server:
        endpoint = Endpoint(server.url, "m", concurrency=2, retries=0)
        replies = endpoint.ask(Made(range(20)), 5, lambda place, reply: told.__setitem__(place, reply.text))
    assert [reply.text for reply in replies] == [told[i] for i in range(20)] == list(map(str, range(20)))
