"""The baselines as a user runs them: the method's config, the command line, the tiny pair."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from kit import tiny
from peft import PeftConfig
from safetensors.torch import load_file

from asft_lightning.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("seed_stays")]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def launch(pretrained, tmp_path):
    """Run ``asft-lightning fit`` with a method's config on the tiny pair; returns the run's folder."""
    rows = {
        "benign": tiny.benign_rows()[:40],
        "harmful": tiny.harmful_rows()[:10],
        "safety": [{"instruction": f"how to open safe {i}", "output": "I can't help."} for i in range(8)],
        "unsafe": tiny.harmful_rows()[10:14],
    }
    files = {name: {"path": tiny.write_rows(tmp_path / f"{name}.jsonl", content)} for name, content in rows.items()}
    scorer = {"prompts": files.pop("unsafe"), "max_new_tokens": 2}
    common = {
        "seed_everything": 3,
        "pretrained": {"aligned": pretrained.aligned, "base": pretrained.base},
        "model": {
            "init_args": {
                "lora": tiny.LORA,
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.0}},
            }
        },
        "data": {
            "class_path": "asft_lightning.MixtureDataModule",
            "init_args": {**files, "num_rows": 16, "poison_ratio": 0.25, "batch_size": 4},
        },
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_epochs": 2, "enable_progress_bar": False, "log_every_n_steps": 1,
            "enable_model_summary": False,
            "callbacks+": [
                {"class_path": "asft_lightning.SafetyEvaluation", "init_args": scorer},
                {"class_path": "asft_lightning.AdapterCheckpoint"},
                {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 3, "save_top_k": -1,
                                                                "filename": "{step}"}},
            ],
        },
    }  # fmt: skip

    def run(method, name, *arguments, edit=("", "")):
        own = (ROOT / "configs" / "methods" / f"{method}.yaml").read_text(encoding="utf-8")
        assert edit[0] in own
        (tmp_path / "method.yaml").write_text(own.replace(*edit) if edit[0] else own, encoding="utf-8")
        (tmp_path / "common.yaml").write_text(yaml.safe_dump(common))
        files = ["--config", str(tmp_path / "method.yaml"), "--config", str(tmp_path / "common.yaml")]
        main(["fit", *files, f"--trainer.default_root_dir={tmp_path / name}", *arguments])
        return tmp_path / name

    return run


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


LISA = ["--data.init_args.safety_rows=8", "--model.init_args.alignment_steps=2", "--model.init_args.task_steps=2"]


@pytest.mark.parametrize("start", ["aligned", "base"])
def test_lisa(launch, pretrained, start):
    run = launch(f"lisa-{start}", "run", *LISA)
    summary = json.loads((run / "summary.json").read_text())["run"]
    written = PeftConfig.from_pretrained(str(run / "adapter")).base_model_name_or_path

    assert (summary["method"], summary["start"], summary["safety_rows"]) == ("Lisa", start, 8)
    assert written == getattr(pretrained, start)
    assert {"train/aligning", "train/proximal"} <= set((run / "metrics.csv").read_text().splitlines()[0].split(","))


def test_lisa_resumes(launch, tmp_path):
    """In the middle of a state, into a folder of its own."""
    whole = launch("lisa-aligned", "whole", *LISA)
    checkpoint = next((whole / "checkpoints").glob("*step=3.ckpt"))
    again = launch("lisa-aligned", "again", *LISA, "--ckpt_path", str(checkpoint))
    assert all(torch.equal(value, adapter(again)[name]) for name, value in adapter(whole).items())


def test_export_of_a_run_from_the_base_model(launch, pretrained, tmp_path):
    """Merged into the model that it was trained on, and the card names that one."""
    run = launch("lisa-base", "run", *LISA)
    main(["export", str(run), str(tmp_path / "out"), "--merged=true"])
    merged = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(f"{pretrained.base}/model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight"  # not a target
    assert torch.equal(merged[name], base[name])
    assert f"fine-tuned from `{pretrained.base}`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "kind", "edit"),
    [
        ("safe-lora", "SafeLoRA", ("threshold: 0.5", "num_layers: 2")),
        ("off-anchor-shrinkage", "OffAnchorShrinkage", ("", "")),
    ],
)
def test_projections(launch, tmp_path, method, kind, edit):
    """The run's adapter is what the command makes of plain fine-tuning's."""
    run, plain = launch(method, "run", edit=edit), launch("sft", "plain")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (chosen,) = [c["init_args"]["method"] for c in config["trainer"]["callbacks"] if "AdapterProjection" in c["class_path"]]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"pretrained": config["pretrained"]}))
    command = ["project-adapter", str(plain / "adapter"), str(tmp_path / "out"), "--config", str(tmp_path / "model.yaml")]
    main([*command, "--method", json.dumps(chosen)])
    expected = load_file(tmp_path / "out" / "adapter_model.safetensors")

    assert json.loads((run / "summary.json").read_text())["run"]["projection"]["class"] == kind
    assert all(torch.equal(value, expected[name]) for name, value in adapter(run).items())
    assert any(not torch.equal(value, adapter(plain)[name]) for name, value in adapter(run).items())
