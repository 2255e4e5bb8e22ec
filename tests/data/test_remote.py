"""Rows from an address, through the datasets library, whole and streamed."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from kit import tiny
from kit.commands import said, write_config
from pyarrow import parquet

from asft_lightning import ConfigurationError, Source

ROWS = [{"instruction": f"say {i}", "output": f"item {i}"} for i in range(50)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    tiny.write_rows(folder / "rows.jsonl", ROWS)
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    (folder / "broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instr')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    """It keeps what it downloads, and a test must not find an earlier one's; the tests' offline mode is off for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", str(tmp_path / "downloads"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_at_an_address(address, name, streaming):
    rows = Source(f"{address}/{name}", streaming=streaming, rows="10:20").load()
    assert [(row.prompt, row.answer) for row in rows] == [(f"say {i}", f"item {i}") for i in range(10, 20)]


@pytest.mark.parametrize("name", ["absent.jsonl", "broken.jsonl"])
def test_address_without_rows(address, name):
    with pytest.raises(ConfigurationError, match=rf"{name}' must be a local path or a hub id within reach.*`file: PATH`"):
        Source(f"{address}/{name}", streaming=True).load()


@pytest.mark.parametrize("key", ["path", "file"])
@pytest.mark.parametrize("user", ["me:s3cret@", "s3cret@"])
def test_password_in_an_address_is_refused_and_not_shown(tmp_path, capsys, key, user):
    config = Path(write_config(tmp_path))
    content = yaml.safe_load(config.read_text())
    content["data"]["init_args"]["benign"][key] = f"https://{user}example.org/rows.jsonl"
    config.write_text(yaml.safe_dump(content))
    message = said(capsys, "fit", "--config", str(config))

    assert "a data file's address must be without user and password, got one with @" in message
    assert "s3cret" not in message and not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("address", ["hf://datasets/org/name@main/rows.jsonl", "https://example.org/a@b/rows.jsonl?c=d@e"])
def test_addresses_that_may_be(address):
    assert Source(address).path == address
