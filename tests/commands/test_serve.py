"""asft-lightning serve: Transformers' own server gives what the run's model gives; and what is run where vLLM is there."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
import yaml
from kit import tiny
from kit.commands import said, write_config
from kit.forks import free_port

from asft_lightning.cli import main
from asft_lightning.commands.finished_run import FinishedRun
from asft_lightning.evaluation import generate_answers

pytestmark = pytest.mark.slow
TEXT = tiny.benign_rows()[0]["instruction"]
VLLM = """#!{python}
import http.server, json, pathlib, sys
pathlib.Path({told!r}).write_text(json.dumps(sys.argv[1:]))
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("localhost", int(sys.argv[sys.argv.index("--port") + 1])), Healthy)
server.handle_request()
"""
"""A stand-in for what is not installed: it notes its arguments, answers one look whether it is there, and ends."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    main(["fit", "--config", write_config(folder, "LoRAFineTuner", steps=8), "--model.optimizer.lr=0.1"])
    return folder / "run"


def expected(run, text):
    """What chat and generate say."""
    finished = FinishedRun.read(str(run), "serve")
    tokenizer, template = finished.load_tokenizer(), finished.template
    ids, ends = [template.prompt_ids(tokenizer, text)], [template.end(tokenizer).token_id]
    return generate_answers(finished.load_model().eval(), tokenizer, ids, max_new_tokens=12, ends=ends)[0]


def asked(line, text):
    """The answer to the request that was printed, with another prompt in it."""
    _, address, *_, body = shlex.split(line)
    request = json.loads(body) | {"max_tokens": 12, "messages": [{"role": "user", "content": text}]}
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, json.dumps(request).encode(), headers)) as reply:
        return json.loads(reply.read())["choices"][0]["message"]["content"]


def test_the_server_of_transformers_gives_what_the_run_gives(run):
    pytest.importorskip("fastapi")
    pytest.importorskip("openai", minversion="1.98")  # the server of Transformers asks for it
    port = free_port()
    command = [sys.executable, "-m", "asft_lightning", "serve", str(run), "--server", "transformers", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    limit = threading.Timer(300, process.kill)  # a server that says nothing ends the test
    limit.start()
    try:
        lines = []
        while not re.match("curl ", line := process.stdout.readline()):
            assert line, lines  # it ended
            lines.append(line)
        assert f"serving {run / 'merged'} at http://localhost:{port}/v1" in lines[-1]
        assert asked(line, TEXT) == expected(run, TEXT) != ""
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        with pytest.raises(OSError):
            socket.create_connection(("localhost", port), timeout=1)
    finally:
        limit.cancel()
        process.kill()


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """The arguments that it was run with."""
    program, told = tmp_path / "bin" / "vllm", tmp_path / "arguments.json"
    program.parent.mkdir()
    program.write_text(VLLM.format(python=sys.executable, told=str(told)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return lambda: json.loads(told.read_text())


def test_what_vllm_is_run_with(run, vllm, capsys):
    """Not the real one: it is not installed here. With the system prompt that the model was measured under."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    settings = config | {"template": config["template"] | {"system": "Be kind.", "enable_thinking": False}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    try:
        port = free_port()
        main(["serve", str(run), "--server=vllm", f"--port={port}"])
    finally:
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert vllm() == ["serve", str(run / "merged"), "--host", "localhost", "--port", str(port)]
    body = json.loads(shlex.split(capsys.readouterr().out.splitlines()[-1])[-1])
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_model_that_was_trained_whole_is_served_as_it_is(tmp_path, vllm):
    main(["fit", "--config", write_config(tmp_path, "FullFineTuner")])
    main(["serve", str(tmp_path / "run"), "--server=vllm", f"--port={free_port()}"])
    assert vllm()[:2] == ["serve", str(tmp_path / "run" / "model")]


def test_a_model_is_merged_anew_where_the_adapter_is_newer(run, vllm, capsys):
    def is_merged():
        capsys.readouterr()
        main(["serve", str(run), "--server=vllm", f"--port={free_port()}"])
        return "written to" in capsys.readouterr().out

    is_merged()
    assert not is_merged()
    os.utime(run / "adapter" / "adapter_model.safetensors")
    assert is_merged()
    assert not is_merged()


def test_mistakes(run, capsys, monkeypatch, tmp_path):
    config = (run / "config.yaml").read_text()
    monkeypatch.setenv("PATH", str(tmp_path))  # with no server in it
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    message = said(capsys, "serve", str(run), "--server=vllm")
    assert message == "serve needs the server of vllm and it is not installed. Run: pip install vllm"
    monkeypatch.setattr("asft_lightning.commands.serve.is_installed", lambda package: False)
    message = said(capsys, "serve", str(run))
    assert message.endswith('of Transformers or vLLM, and it is not installed. Run: pip install "asft-lightning[serve]"')
    monkeypatch.undo()
    (run / "config.yaml").write_text(config.replace("style: chat", "style: plain"))
    assert "run's are in template.style plain. Use asft-lightning chat" in said(capsys, "serve", str(run))
    (run / "config.yaml").write_text(config)
