"""What the last version left behind: it loads, and its checkpoint goes on to the weights that it went to then."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import asft_lightning
from asft_lightning import AnchorSet
from asft_lightning.cli import main
from asft_lightning.runs.alignment_log import AlignmentLog
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.summary import Summary

LEFT = Path(__file__).parent / "last_version"
PUBLIC = [
    "CATALOGUE", "Activation", "AdapterCheckpoint", "AdapterProjection", "AlignmentMonitor", "Anchor", "AnchorError",
    "AnchorSet", "AnswerAccuracy", "AsFT", "AsFTError", "Attack", "BeaverDamJudge", "ClassifierJudge",
    "ConfigurationError", "DataError", "DriftBudget", "EndpointJudge", "EndpointRater", "FSDP2Strategy", "Gram",
    "GuardJudge", "Harmful", "HarmfulScore", "Judge", "Lisa", "LoRAFineTuner", "MixtureDataModule",
    "OffAnchorShrinkage", "Pretrained", "Probe", "Projection", "Random", "Rater", "Rating", "RefusalEvaluation",
    "RefusalJudge", "RefusalRate", "Row", "RubricEvaluation", "RubricScore", "SafeAccuracy", "SafeLoRA",
    "SafetyEvaluation", "Shrinkage", "Source", "StorageError", "Subspace", "Template", "TrainingError", "Turn",
    "UnpenalisedError", "UpdatePenalty", "UtilityEvaluation", "Verdict", "build_anchors", "generate_answers",
]  # fmt: skip
"""The names that version 0.1.0 exported."""


@pytest.fixture
def left(tmp_path, monkeypatch):
    """A copy to work in; its config names files beside it."""
    shutil.copytree(LEFT, tmp_path / "left")
    monkeypatch.chdir(tmp_path / "left")
    return RunFolder(Path("run"))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name):
    assert getattr(asft_lightning, name).__name__ if name != "CATALOGUE" else asft_lightning.CATALOGUE
    assert name in asft_lightning.__all__


def test_run_folder_is_read(left):
    summary = Summary.read(left)
    assert (summary.run.ended, summary.run.method, summary.run.rows, summary.run.more["seed"]) == (True, "AsFT", 16, 0)
    assert summary.scores["safety/harmful_score"].before == 100.0
    assert summary.scores["safety/harmful_score"].steps.keys() == {4, 8}
    assert summary.scores["safety/harmful_score"].interval(Moment.AFTER) is not None
    assert [str(row.moment) for row in AlignmentLog(left.alignment).read()[::4]] == ["before", "4", "8", "after"]


def test_anchor_file_is_read(left):
    anchors = AnchorSet.load(left.anchors)
    assert [term.label for term in anchors.terms] == ["Gram"] and len(anchors.shapes) == 4
    assert anchors.sha256() == Summary.read(left).run.more["anchors_sha256"]


def test_checkpoint_goes_on(left, seed_stays):
    """Whatever kernels this machine has: to float32's rounding over four steps."""
    expected = load_file(left.adapter / "adapter_model.safetensors")
    step = next((left.path / "checkpoints").glob("*step=4.ckpt"))
    main(["fit", "--config", "config.yaml", "--ckpt_path", str(step), "--trainer.default_root_dir", "again"])
    resumed = load_file(Path("again") / "adapter" / "adapter_model.safetensors")

    assert resumed.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-3, atol=1e-4)


def test_adapter_is_exported(left):
    main(["export", "run", "out"])
    assert "with `AsFT`, λ = 1, on 16 rows of which 4\nwere harmful" in Path("out/README.md").read_text()
