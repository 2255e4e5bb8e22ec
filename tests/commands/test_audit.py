"""asft-lightning audit: what it says and writes, and that it trains nothing."""

import json
import shlex

import pytest
from kit.commands import said

from asft_lightning.cli import main

pytestmark = pytest.mark.usefixtures("seed_stays")


def test_shows_and_writes_and_says_what_to_type_next(tmp_path, capsys):
    run = f"--config quickstart --data.num_rows 40 --trainer.default_root_dir {tmp_path}"
    main(["audit", *shlex.split(run)])
    main(["audit", *shlex.split(run), "--data.audit.action", "drop"])
    told = capsys.readouterr().out.splitlines()

    assert "of 40 rows 4 flagged" in told
    assert any(line.split() == ["sandbox:harmful", "harmful", "4", "4", "100.0"] for line in told)
    assert f"to train without them: asft-lightning fit {run} --data.audit.action drop" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit"]
    flagged = [json.loads(line) for line in (tmp_path / "audit" / "audit.jsonl").read_text().splitlines()]
    assert [line["action"] for line in flagged] == ["report"] * 4


def test_other_data(capsys):
    data = '{"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"}'
    message = said(capsys, "audit", "--config", "quickstart", "--data", data)
    assert message == "audit needs the rows of a MixtureDataModule, got BoringDataModule. Set data to one."
