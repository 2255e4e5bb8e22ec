"""Modules of the working directory: those that a config names are found, and no other."""

import importlib.util
import sys

import pytest
import yaml
from kit.commands import said, write_config

from asft_lightning.cli import main
from asft_lightning.runtime.own_modules import make_named_importable

JUDGE = """
from asft_lightning import Verdict
from own_words import WORD

class WordJudge:
    def __call__(self, prompts, answers):
        return [Verdict(WORD in answer) for answer in answers]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with two modules of the user's and one that lay there already."""
    (tmp_path / "own_judge.py").write_text(JUDGE)
    (tmp_path / "own_words.py").write_text("WORD = 'safe'")
    (tmp_path / "unnamed_package.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path
    for name in ("own_judge", "own_words"):
        sys.modules.pop(name, None)


def with_judge(folder, name):
    """A run's config whose judge is this class."""
    path = write_config(folder)
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["trainer"]["callbacks"][0]["init_args"]["judge"] = {"class_path": name}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return path


@pytest.mark.usefixtures("seed_stays")
def test_a_config_names_a_class_of_the_working_directory(folder):
    main(["fit", "--config", with_judge(folder, "own_judge.WordJudge")])
    assert (folder / "run" / "generations" / "safety-after.jsonl").is_file()
    assert sys.path[-1] == str(folder)  # after all else, and only since a module of the user's was asked for


def test_what_nobody_names_is_not_importable(folder, capsys):
    """A library that looks for an optional package finds none in the folder that somebody works in."""
    assert "module 'own_judge' has no attribute 'Absent'" in said(
        capsys, "fit", "--config", write_config(folder), "--data=own_judge.Absent"
    )
    sys.path.remove(str(folder))
    rows = folder / "rows.json"
    rows.write_text('[{"instruction": "what is unnamed_package.absent"}]')
    given = [
        "--config",
        "quickstart",
        "--trainer.logger=own_judge.Logger",
        f"--data.benign={rows}",
        "--data.harmful",
        str(rows),
    ]
    make_named_importable(["fit", *given, str(rows), "unnamed_package"])
    assert importlib.util.find_spec("unnamed_package") is None
    assert importlib.util.find_spec("own_judge") is not None
    assert not (folder / "executed").exists()
