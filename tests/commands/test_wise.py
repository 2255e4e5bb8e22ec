"""asft-lightning wise, end to end against a real server that is slow, busy, breaks off and talks nonsense."""

import csv
import json
import os
import signal
import time
from collections import Counter

import pytest
from kit.commands import said
from kit.wise import rating_of, records, save_images, save_records, score_of, seen
from kit.worlds import sends, serving

from asft_lightning.cli import main
from asft_lightning.metrics import WISE_VERSIONS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a run is forked to be killed")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Troubled:
    """Rates what it sees. Of every 13 images one is slow, one is put off with 429, one is dropped, one gets nonsense."""

    def __init__(self):
        self.tries, self.ratings, self.on_rating = Counter(), Counter(), lambda: None

    def __call__(self, body):
        number, _ = seen(body)
        self.tries[number] += 1
        trouble = number % 13 if self.tries[number] == 1 else None
        if trouble == 0:
            return sends(429, {"retry-after-ms": "1"})
        if trouble == 1:
            return None
        if trouble == 2:
            return "What a lovely image!"
        if trouble == 3:
            time.sleep(0.05)
        self.ratings[number] += 1
        self.on_rating()
        return json.dumps(rating_of(number))


def killed_after(server, ratings, arguments):
    """A fork that runs this command, and is killed when the server has given so many ratings."""
    pid = os.fork()
    if pid == 0:
        try:
            main(arguments)
        finally:
            os._exit(0)

    def kill():
        if sum(server.ratings.values()) == ratings:
            os.kill(pid, signal.SIGKILL)

    server.on_rating = kill
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    server.on_rating = lambda: None
    assert status == -signal.SIGKILL


@pytest.mark.parametrize("each", [15, pytest.param(None, marks=pytest.mark.slow)])
def test_killed_and_gone_on_with(tmp_path, capfd, each):
    content = records(each=each)
    ids = [record["prompt_id"] for record in content]
    data, images = save_records(tmp_path / "wise.json", content), save_images(tmp_path / "images", ids)
    troubled, out = Troubled(), tmp_path / "out"
    with serving(troubled) as server:
        line = ["wise", data, images, "--endpoint.url", server.url, "--endpoint.model", "eyes", "--output", str(out)]
        killed_after(troubled, len(ids) // 2, line)
        main(line)
        asked = len(server.bodies)
        main(line)
        assert len(server.bodies) == asked  # a third time nobody is asked

    replies = [json.loads(entry) for entry in (out / "replies.jsonl").read_text().splitlines()]
    assert Counter(reply["id"] for reply in replies if reply["reply"].startswith("{")) == Counter(ids)
    assert len([i for i in ids if troubled.ratings[i] > 1]) <= 8  # what was on its way when it was killed

    scores = json.loads((out / "scores.json").read_text())
    for name, span in WISE_VERSIONS["legacy"].groups.items():
        by_hand = [score_of(i) for i in ids if i in span]
        assert scores["fields"][name]["mean"] == pytest.approx(sum(by_hand) / len(by_hand))
        assert scores["fields"][name]["rated"] == len(by_hand)
    even = [score_of(i) for i in ids if i <= 400 and i % 2 == 0]
    assert scores["subcategories"]["culture: Even"]["mean"] == pytest.approx(sum(even) / len(even))
    whole = None if each else pytest.approx(sum(map(score_of, ids)) / 1000)
    assert scores["overall"] == whole
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "images.csv").open()))
    assert [int(row["id"]) for row in rows] == ids
    assert [float(row["wiscore"]) for row in rows] == pytest.approx([score_of(i) for i in ids], abs=1e-4)
    groups = {(row["kind"], row["name"]): row for row in csv.DictReader((out / "scores.csv").open())}
    assert groups["overall", "overall"]["rated"] == str(len(ids))
    printed = capfd.readouterr().out
    assert ("overall score only where all" in printed) == (each is not None)
    assert "chemistry" in printed and f"{len(ids)} of 1000" in printed


def test_what_is_missing_or_unrated_is_said(tmp_path, capsys):
    content = records("verified")
    ids = [record["prompt_id"] for record in content]
    data, images = save_records(tmp_path / "wise.json", content), save_images(tmp_path / "images", ids[1:])
    out = tmp_path / "out"
    with serving(lambda body: "no" if seen(body)[0] == 401 else '{"correct": 1}') as server:
        line = ["wise", data, images, "--version", "verified", "--endpoint.url", server.url, "--endpoint.model", "eyes"]
        main([*line, "--output", str(out)])
    printed = capsys.readouterr().out

    assert "no image of 1 of 12 prompts: 1\n" in printed
    assert "no rating of 1 images: 401; 401: said no JSON object, but 'no'" in printed
    scores = json.loads((out / "scores.json").read_text())
    assert scores["overall"] is None
    assert [scores["fields"][name]["rated"] for name in ("culture", "time", "space")] == [1, 1, 2]
    assert scores["unrated"] == {"401": "said no JSON object, but 'no'"}
    problems = [row["problem"] for row in csv.DictReader((out / "images.csv").open())]
    assert problems[:3] == ["no image", "", "said no JSON object, but 'no'"]


@pytest.mark.parametrize(("mistake", "message"), [
    ({"data": "none.json"}, "WISE's records must be JSON files, and there is none at none.json"),
    ({"images": "none"}, "images must be a folder, and none is none"),
    ({"url": "http://127.0.0.1:9/v1"}, "the endpoint must answer questions about images, and 'eyes' at http://127.0.0.1:9/v1"),
    ({"url": "localhost"}, "an endpoint's url must be an http:// or https:// address"),
])  # fmt: skip
def test_mistakes_end_in_one_line(tmp_path, capsys, mistake, message):
    content = records()
    given = {
        "data": save_records(tmp_path / "wise.json", content),
        "images": save_images(tmp_path / "images", [1, 2]),
        "url": "http://127.0.0.1:9/v1",
    } | mistake
    endpoint = ["--endpoint.url", given["url"], "--endpoint.model", "eyes", "--endpoint.retries", "0"]
    assert message in said(capsys, "wise", given["data"], given["images"], *endpoint, "--output", str(tmp_path / "out"))
