"""``init plugin``: what it writes works as it stands, in its folder and installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit.commands import said

from asft_lightning.cli import main

PACKAGE = str(Path(__file__).parents[2])


def run(folder, *arguments, path=""):
    """A command of this Python's in a folder; its output."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, PACKAGE]))}
    process = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_its_own_test_passes(tmp_path, capsys):
    """A judge, an anchor, a source, and a run with all three."""
    main(["init", "plugin", "my-parts", f"--folder={tmp_path}"])
    assert f"cd {tmp_path / 'my-parts'} && pytest" in capsys.readouterr().out
    assert "4 passed" in run(tmp_path / "my-parts", "-m", "pytest", "-p", "no:cacheprovider")


@pytest.mark.slow
def test_installed_it_is_found_in_every_folder(tmp_path):
    main(["init", "plugin", "my-parts", f"--folder={tmp_path}"])
    installed, elsewhere = str(tmp_path / "site"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(tmp_path, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", f"--target={installed}", "./my-parts")
    code = "from asft_lightning import Source; print([row.answer for row in Source('catalogue:my-parts-rows').load()])"
    assert run(elsewhere, "-c", code, path=installed).strip() == "['negative', 'positive']"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "My Parts",
            "a plug-in's name must be lower-case letters, digits and -, and no word of Python, got 'My Parts'. Take",
        ),
        ("class", "and no word of Python, got 'class'. Take my-judges"),
        ("json", "a plug-in's name must be new, and a module json can be imported already. Take another"),
        ("there", "output must not exist yet, and"),
    ],
)
def test_names_that_cannot_be(tmp_path, capsys, name, message):
    (tmp_path / "there").mkdir()
    assert message in said(capsys, "init", "plugin", name, f"--folder={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
