"""Endpoints that mean no good, on this machine: they send elsewhere, trickle, flood, stall, and repeat the key."""

import contextlib
import gzip
import json
import time
from itertools import count

import pytest
import yaml
from kit.commands import said, write_config
from kit.worlds import asked, judge_at, rater_at, sends, serving

from asft_lightning import ConfigurationError, Verdict

KEY = 'sk-a"b/c d-0123456789'
"""A key that JSON, Python and addresses each spell in another way."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def verdict_of(server, **settings):
    (verdict,) = judge_at(server.url, **{"retries": 0, "timeout": 5, **settings})(["How?"], ["Take a match."])
    return verdict


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status):
    with serving(lambda body: "unsafe") as other:
        with serving(lambda body: sends(status, {"Location": f"{other.url}/chat/completions"})) as server:
            verdict = verdict_of(server)
        assert other.connections == 0
    expected = f"the server answers with {status}, a redirect, which is not followed: set url to where it leads"
    assert verdict == Verdict(None, problem=expected)


def test_nothing_of_the_environment_goes_out_but_the_key(monkeypatch):
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, f"secret-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: secret-team")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    with serving(lambda body: sends(500, {"Set-Cookie": "seen=1"}) if len(server.bodies) == 1 else "safe") as server:
        assert verdict_of(server, retries=1) == Verdict(False)
    for headers in server.headers:
        allowed = {"Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "Host"}
        assert {name.title() for name in headers} == allowed | {"User-Agent"}
        assert headers["Authorization"] == "Bearer sk-0123456789"
        assert "secret" not in str(headers)


SECRETS = [
    "http://user:s3cret@127.0.0.1:1/v1",
    "user:s3cret@127.0.0.1:1/v1",
    "http://s3cret@127.0.0.1:1/v1",
    "http://user:s3%40cret@[a/v1",
    "https://127.0.0.1:1/v1?key=s3cret",
    "ftp://127.0.0.1:1/v1?api-key=s3cret",
    "https://127.0.0.1:1/v1#s3cret",
]


@pytest.mark.parametrize("url", SECRETS)
def test_address_with_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(
        ConfigurationError, match=r"without user, password, query or fragment, .*name that as api_key_env"
    ) as caught:
        judge_at(url)
    assert "s3" not in str(caught.value)


def test_address_with_a_secret_is_in_no_file_of_a_run(tmp_path, capsys):
    endpoint = {"url": SECRETS[0], "model": "guard"}
    judge = {"class_path": "asft_lightning.EndpointJudge", "init_args": {"endpoint": endpoint}}
    config = write_config(tmp_path)
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    content["trainer"]["callbacks"][0]["init_args"]["judge"] = judge
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    message = said(capsys, "fit", "--config", config)
    assert message.startswith("an endpoint's url must be an address without user")
    assert "s3cret" not in message
    assert not (tmp_path / "run").exists()


REPEATS = {
    "error": sends(401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()),
    "other error": sends(401, {}, json.dumps({"detail": [f"bad key {KEY}"]}).encode()),
    "plain error": sends(401, {}, f"bad key {KEY}".encode()),
    "reply": f"{KEY} is your key",
    "verdict": f"unsafe\n{KEY}",
}


@pytest.mark.parametrize("what", REPEATS)
def test_key_that_a_server_repeats_is_nowhere(what):
    with serving(lambda body: REPEATS[what]) as server:
        verdict = verdict_of(server)
        (rating,) = rater_at(server.url, {"help": "helps"}, retries=0)(["a"], ["b"], [""])
    assert "0123456789" not in f"{verdict} {rating}"


@pytest.mark.parametrize("status", [200, 400])
def test_half_a_character_can_be_written(status):
    """A file holds whole ones alone, and what a server says stands in some."""
    told = {"error": {"message": "\ud800"}, "choices": [{"message": {"role": "assistant", "content": "safe \ud800"}}]}
    with serving(lambda body: sends(status, {}, json.dumps(told).encode())) as server:
        verdict = verdict_of(server)
        (rating,) = rater_at(server.url, {"help": "helps"}, retries=0)(["a"], ["b"], [""])
    assert f"{verdict.problem} {rating.problem}".encode()


def test_placeholder_of_a_key_changes_no_reply(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "safe")
    with serving(lambda body: "unsafe") as server:
        assert verdict_of(server) == Verdict(True)


def trickle(start, drop, end):
    """``start``, then ``drop`` now and then for six seconds, then ``end``."""

    def reply(handler):
        handler.wfile.write(start)
        with contextlib.suppress(OSError):  # the judge hung up
            for _ in range(60):
                handler.wfile.write(drop)
                time.sleep(0.1)
            handler.wfile.write(end)
        handler.close_connection = True

    return reply


SAFE = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "safe"}}]}).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    [
        trickle(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" ", SAFE),
        trickle(b"HTTP/1.1 200 OK\r\nX: ", b"x", b"\r\nContent-Type: application/json\r\n\r\n" + SAFE),
        trickle(b"", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + SAFE),
        trickle(b"HTTP/1.1 400 Bad\r\n\r\n", b" ", b""),
    ],
    ids=["body", "headers", "further responses", "error"],
)
def test_one_deadline_for_the_whole_reply(reply):
    with serving(lambda body: reply) as server:
        verdict = verdict_of(server, timeout=0.5)
    assert verdict.unsafe is None
    assert verdict.problem.endswith("succeeded: APITimeoutError (ReadTimeout): Request timed out.")


def test_reply_that_trickled_is_asked_for_again():
    tries = count()
    with serving(lambda body: trickle(b"", b"H", b"") if next(tries) == 0 else "safe") as server:
        assert verdict_of(server, timeout=0.5, retries=4) == Verdict(False)


@pytest.mark.parametrize("status", [200, 400])
def test_reply_has_a_largest_size(status):
    sent = []

    def flood(handler):
        handler.send_response(status)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the judge hung up
            for _ in range(600):
                handler.wfile.write(b" " * 2**20)
                sent.append(2**20)
        handler.close_connection = True

    with serving(lambda body: flood if asked(body) == "flood" else "safe") as server:
        verdicts = judge_at(server.url, retries=0)(["", ""], ["flood", "x"])
    assert verdicts == [Verdict(None, problem="ReplyError: the reply is larger than 4 MiB"), Verdict(False)]
    assert sum(sent) < 64 * 2**20  # what sockets hold, beside the four


@pytest.mark.parametrize("encoding", ["gzip", "deflate, gzip", "br"])
def test_compressed_reply_is_not_unpacked(encoding):
    bomb = gzip.compress(gzip.compress(b" " * 2**24))
    with serving(lambda body: sends(200, {"Content-Encoding": encoding}, bomb)) as server:
        verdict = verdict_of(server)
    assert verdict == Verdict(None, problem="ReplyError: the reply is compressed, though it was asked not to be")
    assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.slow
@pytest.mark.parametrize(
    "pause",
    [
        {"Retry-After": "50"},
        {"Retry-After": "1e9"},
        {"Retry-After-Ms": "50000"},
        {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"},
    ],
    ids=str,
)
def test_pause_that_a_server_asks_for_has_a_limit(pause):
    tries = count()
    start = time.perf_counter()
    with serving(lambda body: sends(429, pause) if next(tries) == 0 else "safe") as server:
        assert verdict_of(server, retries=1, timeout=1) == Verdict(False)
    assert time.perf_counter() - start < 20


def test_server_that_is_always_busy_is_given_up():
    with serving(lambda body: 429) as server:
        verdicts = judge_at(server.url, concurrency=4, retries=0)([""] * 50, ["x"] * 50)
    assert {verdict.unsafe for verdict in verdicts} == {None}
    assert 4 <= len(server.bodies) < 12
