"""A command imports what it needs: which modules are loaded when it has ended, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asft_lightning import AnchorSet
from asft_lightning.anchors import AnchorTerm, ModuleAnchor

TRAINING = {"lightning", "lightning.pytorch", "transformers", "peft", "torchmetrics", "datasets"}
SAYS = "import sys; from asft_lightning.cli import main; main(sys.argv[1:]); print('loaded:', *sys.modules)"


def loaded_by(folder, *arguments):
    """The names of all modules that a command has loaded."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", SAYS, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return set(process.stdout.rpartition("loaded: ")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"]])
def test_help_loads_nothing(tmp_path, arguments):
    assert not loaded_by(tmp_path, *arguments) & {*TRAINING, "torch", "numpy", "jsonargparse", "rich", "yaml"}


def test_anchors_are_shown_without_what_trains(tmp_path):
    term = AnchorTerm({"class": "Shrinkage"}, 1.0, {"q_proj": ModuleAnchor()})
    AnchorSet({"q_proj": (4, 4)}, (term,)).save(tmp_path / "anchors.safetensors")
    loaded = loaded_by(tmp_path, "anchors", "show", "anchors.safetensors")
    assert "asft_lightning.anchors.anchor_set" in loaded
    assert not loaded & TRAINING


def test_a_report_alone_is_written_without_what_trains(tmp_path):
    loaded = loaded_by(tmp_path, "compare", "compare/sandbox", "--report_only=true")
    assert (tmp_path / "runs" / "compare-sandbox" / "report.html").is_file()
    assert not loaded & {*TRAINING, "torch"}
