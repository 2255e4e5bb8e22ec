"""A path in the place of a source: on the command line as in a config."""

import pytest
from kit import tiny
from kit.commands import said

from asft_lightning.cli import main

CONFIG = ["--config", "models/sandbox", "--config", "data/sandbox", "--config", "methods/sft", "--data.poison_ratio", "0"]


@pytest.mark.parametrize("form", ["--data.benign {}", "--data.benign={}", "--data.init_args.benign {}"])
def test_a_file_stands_for_a_source(tmp_path, capsys, form):
    """The columns are the file's, not those that a config says of another source."""
    rows = tiny.write_rows(tmp_path / "mine.jsonl", [{"instruction": "say monday", "output": "monday"}] * 20)
    main(["describe", *CONFIG, *form.format(rows).split(), "--data.num_rows", "10"])
    assert "mine.jsonl" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    message = said(capsys, "describe", *CONFIG, "--data.benign", str(tmp_path / "absent.jsonl"))
    assert "absent.jsonl does not. Give the path" in message
