"""Runs of the command line on a tiny pair of their own, which a test may damage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import asft_lightning
from asft_lightning.cli import main
from kit import tiny

ON_LINUX = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or mounts a tmpfs"),
    pytest.mark.usefixtures("seed_stays"),
]
FORKED = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked: each would import everything again"),
]


class Exploit:
    """Unpickles to the act of creating a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def write_config(folder, method="AsFT", steps=2, **saver):
    """The config of a short run in ``folder``, with its own pair and rows; what is there already stays."""
    for name, seed in (("aligned", 1), ("base", 2)):
        if not (folder / name).exists():
            tiny.save_tiny(folder / name, seed)
    files = {
        "benign": tiny.write_rows(folder / "benign.jsonl", tiny.benign_rows()),
        "harmful": tiny.write_rows(folder / "harmful.jsonl", tiny.harmful_rows()),
        "unsafe": tiny.write_rows(
            folder / "unsafe.jsonl", [{"instruction": f"open safe {i}", "output": "no"} for i in (1, 2)]
        ),
    }
    trains = tiny.trains(getattr(asft_lightning, method))
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.0}}
    scorer = {"prompts": {"path": files["unsafe"]}, "max_new_tokens": 2}
    data = {"benign": {"path": files["benign"]}, "harmful": {"path": files["harmful"]}}
    content = {
        "seed_everything": 1,
        "pretrained": {"aligned": str(folder / "aligned"), "base": str(folder / "base")},
        "model": {"class_path": f"asft_lightning.{method}", "init_args": trains | {"optimizer": optimizer}},
        "data": {
            "class_path": "asft_lightning.MixtureDataModule",
            "init_args": data | {"num_rows": 8, "poison_ratio": 0.25, "batch_size": 4},
        },
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_epochs": -1, "max_steps": steps, "enable_progress_bar": False,
            "enable_model_summary": False, "default_root_dir": str(folder / "run"),
            "callbacks": [
                {"class_path": "asft_lightning.SafetyEvaluation", "init_args": scorer},
                {"class_path": "asft_lightning.AdapterCheckpoint"},
                {"class_path": "ModelCheckpoint", "init_args": {"save_last": True} | saver},
            ],
        },
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "config.yaml")


def said(capsys, *arguments):
    """What the command line says where it ends with status 2: one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asft-lightning: ")]
    assert exit_info.value.code == 2
    assert len(lines) == 1
    return lines[0].removeprefix("asft-lightning: ")


def start(folder, *arguments, **environment):
    """The same in a process of its own, as the leader of a group."""
    command = [str(Path(sys.executable).with_name("asft-lightning")), "fit", "--config", str(folder / "config.yaml")]
    own = os.environ | {"OMP_NUM_THREADS": "1", "ASFT_LIGHTNING_CACHE": str(folder / "cache")} | environment
    return subprocess.Popen(
        [*command, *arguments], env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def truncate(path, keep=-50):
    path.write_bytes(path.read_bytes()[:keep])


def edit(path, change):
    """Write a safetensors file anew, with what ``change`` makes of its tensors."""
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path, {"format": "pt"})


def split_in_shards(folder):
    """Part a checkpoint's file in two, as Transformers does; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index
