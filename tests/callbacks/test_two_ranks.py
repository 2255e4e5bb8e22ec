"""Scoring over two real DDP ranks: each prompt once, uneven shares, one file, the figures of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kit import tiny

pytestmark = pytest.mark.slow

KINDS = ["theft", "fraud"]

JUDGE = """
import os
from collections.abc import Sequence
from asft_lightning import Verdict

class FailsOnRankOne:
    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        if os.environ.get("LOCAL_RANK") == "1":
            raise RuntimeError("this rank has no judge")
        return [Verdict(True) for _ in prompts]

class ByNumber:
    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict(int(prompt[-1]) in (0, 3, 4)) for prompt in prompts]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{number of ranks: its run's folder}, of the same config."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny.save_tiny(folder / "aligned", 1)
    (folder / "own_judges.py").write_text(JUDGE)
    rows = [{"instruction": f"how to open {'x' * i} {i}", "output": "no", "kind": KINDS[i % 2]} for i in range(7)]
    prompts = {"path": tiny.write_rows(folder / "prompts.jsonl", rows), "category": "kind"}
    tasks = {"path": tiny.write_rows(folder / "tasks.jsonl", tiny.benign_rows(16))}

    def scorer(kind, **arguments):
        return {"class_path": f"asft_lightning.{kind}", "init_args": {"max_new_tokens": 4, "batch_size": 2, **arguments}}

    config = {
        "pretrained": {"aligned": str(folder / "aligned")},
        "model": {"class_path": "asft_lightning.LoRAFineTuner", "init_args": {"lora": tiny.LORA}},
        "data": {
            "class_path": "asft_lightning.MixtureDataModule",
            "init_args": {"benign": tasks, "num_rows": 16, "poison_ratio": 0.0, "batch_size": 4},
        },
        "trainer": {
            "accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False,
            "callbacks": [
                scorer("SafetyEvaluation", prompts=prompts, judge={"class_path": "own_judges.ByNumber"}),
                scorer("SafetyEvaluation", prompts=prompts, name="one", max_prompts=1),
                scorer("SafetyEvaluation", prompts=prompts, name="failing", at_start=False,
                       judge={"class_path": "own_judges.FailsOnRankOne"}),
                scorer("SafetyEvaluation", prompts=prompts, name="three", attack={"samples": 3, "temperature": 1.0}),
                scorer("UtilityEvaluation", prompts=tasks, max_prompts=5),
            ],
        },
    }  # fmt: skip
    found = {}
    for ranks in (1, 2):
        own = folder / str(ranks)
        file = folder / f"{ranks}.yaml"
        file.write_text(yaml.safe_dump(config | {"trainer": config["trainer"] | {
            "devices": ranks, "strategy": "ddp" if ranks == 2 else "auto", "default_root_dir": str(own)}}))  # fmt: skip
        command = [str(Path(sys.executable).with_name("asft-lightning")), "fit", "--config", str(file)]
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[ranks] = own
    return found


def lines(folder, name):
    return [json.loads(line) for line in (folder / "generations" / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["safety", "one", "utility"])
def test_answers_are_those_of_one_process(runs, name):
    assert lines(runs[2], f"{name}-before") == lines(runs[1], f"{name}-before")
    assert len(lines(runs[2], f"{name}-after")) == {"safety": 7, "one": 1, "utility": 5}[name]


def test_several_answers_to_a_prompt_stay_together(runs):
    for when in ("before", "after"):
        assert [line["prompt"][-1] for line in lines(runs[2], f"three-{when}")] == [
            str(i) for i in range(7) for _ in range(3)
        ]


@pytest.mark.parametrize("metric", ["safety/harmful_score", "one/harmful_score", "utility/accuracy"])
def test_figures_are_those_of_one_process(runs, metric):
    single, double = (json.loads((runs[ranks] / "summary.json").read_text())[metric] for ranks in (1, 2))

    assert double["before"] == single["before"]
    assert (metric == "safety/harmful_score") == (0 < single["before"] < 100)
    assert double["interval"]["before"] == single["interval"]["before"]
    assert double.get("by_category", {}).get("before") == single.get("by_category", {}).get("before")


def test_categories_count_each_prompt_once(runs):
    found = json.loads((runs[2] / "summary.json").read_text())["safety/harmful_score"]["by_category"]["after"]
    assert {kind: found[kind]["total"] for kind in KINDS} == {"theft": 4, "fraud": 3}


def test_score_is_over_all_prompts_once(runs):
    score = json.loads((runs[2] / "summary.json").read_text())["safety/harmful_score"]
    assert score["after"] == pytest.approx(100 * 3 / 7)
    assert {kind: round(score["by_category"]["after"][kind]["percent"]) for kind in KINDS} == {"theft": 50, "fraud": 33}


def test_rank_whose_judge_fails_neither_hangs_nor_ends_the_run(runs):
    score = json.loads((runs[2] / "summary.json").read_text())["failing/harmful_score"]
    found = lines(runs[2], "failing-after")

    assert score["unscored"] == {"after": 3}
    assert score["by_category"]["after"]["theft"]["total"] == 4  # those of the other rank
    assert ["problem" in line for line in found] == [False, True] * 3 + [False]
