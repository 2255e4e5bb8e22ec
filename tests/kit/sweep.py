"""A comparison of the tiny pair, and the command on it in processes that a test may kill."""

import json
import signal

import yaml

from kit import tiny
from kit.forks import Forks


def write_comparison(folder):
    """Five methods: one fails, one needs a first step, and one goes on from another's runs."""
    for name, seed in (("aligned", 1), ("base", 2)):
        tiny.save_tiny(folder / name, seed)
    harmful = tiny.harmful_rows()
    rows = {"benign": tiny.benign_rows()[:40], "harmful": harmful[:10], "unsafe": harmful[10:12]}
    files = {name: {"path": tiny.write_rows(folder / f"{name}.jsonl", own)} for name, own in rows.items()}
    unsafe = {"prompts": files.pop("unsafe"), "max_new_tokens": 2}
    tasks = {"prompts": files["benign"], "max_prompts": 2, "max_new_tokens": 2}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.0}}
    config = {
        "pretrained": {"aligned": str(folder / "aligned"), "base": str(folder / "base")},
        "model": {"init_args": {"lora": tiny.LORA, "optimizer": optimizer}},
        "data": {"class_path": "asft_lightning.MixtureDataModule", "init_args": {**files, "num_rows": 8, "batch_size": 4}},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_epochs": 2, "enable_progress_bar": False,
            "enable_model_summary": False, "enable_checkpointing": False,
            "callbacks": [
                {"class_path": "asft_lightning.SafetyEvaluation", "init_args": unsafe},
                {"class_path": "asft_lightning.UtilityEvaluation", "init_args": tasks},
                {"class_path": "asft_lightning.AdapterCheckpoint"},
            ],
        },
    }  # fmt: skip
    (folder / "common.yaml").write_text(yaml.safe_dump(config))
    sft, asft = {"model": "asft_lightning.LoRAFineTuner"}, {"model": "asft_lightning.AsFT"}
    harmful_anchor = {"class_path": "asft_lightning.Harmful", "init_args": {"adapter": "$first"}}
    shrinkage = {"class_path": "asft_lightning.OffAnchorShrinkage", "init_args": {"strength": 1.0}}
    projection = {"class_path": "asft_lightning.AdapterProjection", "init_args": {"method": shrinkage}}
    comparison = {
        "output": str(folder / "out"),
        "jobs": 2,
        "configs": [],
        "settings": {"seed_everything": "$seed", "data.init_args.poison_ratio": "$poison_ratio"},
        "axes": {"poison_ratio": [0.25], "seed": [0, 1]},
        "tuning": {"axes": {"poison_ratio": [0.25], "seed": [7]}, "budget": 2},
        "methods": {
            "sft": {"settings": {"trainer.enable_checkpointing": True}},
            "shrunk": {"after": "sft", "settings": {"trainer.callbacks+": [projection]}},
            "broken": {"settings": {"data.init_args.num_rows": 1000}},
            "asft": {"settings": {"model.init_args.lambda_reg": "$lambda"}, "tune": {"lambda": [1, 3]}},
            "asft_alt": {
                "settings": {"model.init_args.anchors": [harmful_anchor]},
                "first": {"settings": {"data.init_args.poison_ratio": 1}},
            },
        },
    }
    for name, kind in (("sft", sft), ("asft", asft)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"model": {"class_path": kind["model"]}}))
    trained = {name: method for name, method in comparison["methods"].items() if "after" not in method}
    for name, method in trained.items():
        method["configs"] = [str(folder / f"{name if name == 'asft' or 'alt' in name else 'sft'}.yaml".replace("_alt", ""))]
        method["configs"].append(str(folder / "common.yaml"))
    comparison["methods"]["asft_alt"]["first"]["configs"] = [str(folder / "sft.yaml"), str(folder / "common.yaml")]
    (folder / "comparison.yaml").write_text(yaml.safe_dump(comparison, sort_keys=False))


class Sweep:
    """The command, in a fork of a process that has imported everything once."""

    def __init__(self, folder):
        self.folder, self.forks = folder, Forks(folder)

    def begin(self, *arguments):
        return self.forks.begin(["compare", self.folder / "comparison.yaml", *arguments])[0]

    def ended(self):
        return self.forks.ended(-signal.SIGKILL, 1, 2, 128 + signal.SIGINT)

    @property
    def log(self):
        return self.forks.log

    def done(self):
        """{run: when it ended}."""
        files = (self.folder / "out" / "runs").glob("*/summary.json")
        return {f.parent.name: f.stat().st_mtime_ns for f in files if json.loads(f.read_text())["run"].get("ended")}

    def results(self):
        return json.loads((self.folder / "out" / "results.json").read_text())
