"""What judges live in: a server that behaves as a test wants it, random states, tiny checkpoints."""

import json
import random
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from asft_lightning import Endpoint, EndpointJudge, EndpointRater
from kit import tiny

SMALL = {
    "vocab_size": 262, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}  # fmt: skip


class ChatServer(ThreadingHTTPServer):
    """Speaks as much of OpenAI's protocol as a judge needs.

    ``behave`` gets the request's body and says what comes back: text of a completion, a status (int), a raw body (bytes),
    None to drop the connection, or a function that is given the handler and replies itself. What was asked stands in
    ``bodies``, ``headers`` and ``keys``, in the order of arrival.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.bodies, self.headers, self.keys = behave, [], [], []
        self.connections = 0
        self.lock, self.at_once, self.most_at_once = threading.Lock(), 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def process_request(self, request, client_address):
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """A client that gave up is no news."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.keys.append(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            said = server.behave(body)
        finally:
            with server.lock:
                server.at_once -= 1
        if said is None:
            self.connection.close()
            return
        if callable(said):
            said(self)
            return
        status = said if isinstance(said, int) else 200
        text = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}]}
        raw = (
            said
            if isinstance(said, bytes)
            else json.dumps(text if status == 200 else {"error": {"message": "out of order"}}).encode()
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        """Quiet."""


@contextmanager
def serving(behave):
    """A server on a free port of this machine while inside."""
    server = ChatServer(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(body):
    """The words of a request's last message."""
    return body["messages"][-1]["content"]


@contextmanager
def unchanged_rng():
    """Asserts that no global generator moves inside."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    yield
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def save_classifier(folder, labels=14, config=LlamaConfig, tokenizer=None, **settings):
    """A classifier with random weights, with a tokenizer, as a checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        shape = SMALL | {"num_labels": labels, "initializer_range": 0.3, "pad_token_id": 0} | settings
        model = AutoModelForSequenceClassification.from_config(config(**shape))
    model.save_pretrained(folder)
    (tiny.tiny_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    return str(folder)


def sends(status, headers, body=b""):
    """What a server of a test does that replies with this."""

    def reply(handler):
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def judge_at(url, model="m", question=None, categories=None, **settings):
    """A judge behind a server, with the endpoint's own settings among the rest."""
    return EndpointJudge(Endpoint(url, model, **settings), question, categories)


def rater_at(url, axes, lowest=1, highest=10, **settings):
    """A rater behind a server, likewise."""
    return EndpointRater(Endpoint(url, "m", **settings), axes, lowest, highest)
