"""A run that is ended from outside goes on with the same command, to the weights of a run that was not."""

import json
import os
import random
import signal
import time
from contextlib import suppress

import pytest
import torch
import yaml
from kit import tiny
from kit.commands import FORKED
from kit.forks import Forks
from safetensors.torch import load_file

pytestmark = FORKED

KILLS = 20
STEPS = 200


class Runs:
    """Runs of one config."""

    def __init__(self, folder):
        self.folder, self.config, self.forks = folder, config_of(folder), Forks(folder)

    def begin(self, name, end=None):
        """Start, or go on with, the run of this name; returns its process id."""
        file, own = self.folder / f"{name}.yaml", self.folder / name
        trainer = self.config["trainer"] | {"default_root_dir": str(own)}
        file.write_text(yaml.safe_dump(self.config | {"trainer": trainer}))
        return self.forks.begin(["fit", "--config", file, "--ckpt_path=auto"], end=end)[0]

    def ended(self):
        """Wait for its end; the exit status, negative for a signal."""
        return self.forks.ended(-signal.SIGKILL, 128 + signal.SIGTERM)

    def weights(self, name):
        return load_file(self.folder / name / "adapter" / "adapter_model.safetensors")

    def answers(self, name):
        return len(list((self.folder / name / "generations").glob("*.jsonl")))


def config_of(folder):
    tiny.save_tiny(folder / "aligned", 1)
    benign = {"path": tiny.write_rows(folder / "benign.jsonl", tiny.benign_rows())}
    prompts = {"path": tiny.write_rows(folder / "prompts.jsonl", [{"instruction": "how to open safe 1", "output": "no"}])}
    saver = {"save_last": True, "every_n_train_steps": 7, "save_on_exception": True}
    scorer = {"prompts": prompts, "max_new_tokens": 2, "every_n_steps": 25}
    return {
        "seed_everything": 1,
        "pretrained": {"aligned": str(folder / "aligned")},
        "model": {
            "class_path": "asft_lightning.AsFT",
            "init_args": {
                "lora": tiny.LORA | {"lora_dropout": 0.2},
                "anchors": [{"class_path": "asft_lightning.Shrinkage"}],
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "weight_decay": 0.0}},
            },
        },
        "data": {
            "class_path": "asft_lightning.MixtureDataModule",
            "init_args": {"benign": benign, "num_rows": 40, "poison_ratio": 0.0, "batch_size": 8},
        },
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_epochs": STEPS // 5, "enable_progress_bar": False,
            "callbacks": [
                {"class_path": "asft_lightning.SafetyEvaluation", "init_args": scorer},
                {"class_path": "asft_lightning.AdapterCheckpoint"},
                {"class_path": "ModelCheckpoint", "init_args": saver},
            ],
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = Runs(tmp_path_factory.mktemp("preemption"))
    yield found
    found.forks.close()


@pytest.fixture(scope="module")
def uninterrupted(runs):
    """Its weights, and how many seconds it took."""
    runs.begin("whole")
    begun = time.monotonic()  # all is imported
    assert runs.ended() == 0
    return runs.weights("whole"), time.monotonic() - begun


def is_same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_sigterm_writes_a_checkpoint_and_ends_cleanly(runs, uninterrupted):
    pid, folder = runs.begin("term"), runs.folder / "term"
    deadline = time.monotonic() + 120
    while runs.answers("term") < 2 and time.monotonic() < deadline:  # until it trains
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)

    assert runs.ended() == 128 + signal.SIGTERM
    said = runs.forks.log.read_text()
    assert "ended by SIGTERM; with --ckpt_path auto it goes on" in said
    assert "Traceback" not in said
    assert not (folder / "adapter").exists()
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert 25 <= saved["global_step"] < STEPS
    runs.begin("term")
    assert runs.ended() == 0
    assert is_same(runs.weights("term"), uninterrupted[0])
    scores = json.loads((folder / "summary.json").read_text())["safety/harmful_score"]
    assert scores.keys() >= {"before", "after"}


def moments(seed):
    """What kills the next start: itself at its n-th writing, renaming or scoring; or this test after a share of a run."""
    draw = random.Random(seed)
    own = [("writing", 30), ("renaming", 30), ("scoring", 4)]
    planned = [[moment, draw.randint(1, most)] for moment, most in own for _ in range(4)]
    planned += [draw.uniform(0.0, 0.8) for _ in range(KILLS - len(planned))]
    draw.shuffle(planned)
    return planned


def test_killed_at_twenty_moments(runs, uninterrupted):
    """SIGKILL while files are written, while it scores, and whenever; a run that got to its end makes way for another."""
    weights, seconds = uninterrupted
    planned, chain, kills = moments(seed=0), 0, []
    while planned:
        moment = planned.pop()
        pid = runs.begin(f"kill-{chain}", moment if isinstance(moment, list) else None)
        if not isinstance(moment, list):
            time.sleep(moment * seconds)
            with suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)
        if runs.ended() == 0:  # it was at its end before the moment came
            assert is_same(runs.weights(f"kill-{chain}"), weights)
            sooner = moment if isinstance(moment, list) else moment / 2  # the machine is faster than it was
            planned, chain = [sooner, *planned], chain + 1
            assert chain < KILLS
        else:
            kills.append(moment)
    runs.begin(f"kill-{chain}")
    assert runs.ended() == 0
    assert is_same(runs.weights(f"kill-{chain}"), weights)
    assert len(kills) == KILLS
