"""Figures of docs/results/behaviour-smollm2.json: python benchmarks/smollm2/behaviour/collect.py runs/behaviour OUT.json.

Adds the finished runs of each comparison in the folder to those that the file holds. A run is known by its comparison and
its folder's name, so that runs of several machines come together. ``before`` is what `asft-lightning test` wrote of the
untrained model.
"""

import json
import sys
from pathlib import Path
from typing import Any

from asft_lightning.runtime.files import write_json

SETS = {
    "advbench": "safety/harmful_score",
    "questions": "questions/harmful_score",
    "harmbench": "harmbench/harmful_score",
}
"""{set of unsafe prompts: its metric}."""


def harmful_scores(summary: dict[str, Any], moment: str) -> dict[str, float]:
    """On each set, in percent."""
    return {name: round(summary[metric][moment], 2) for name, metric in SETS.items()}


def record(run: dict[str, Any], comparison: str, before: dict[str, float]) -> dict[str, Any]:
    """One run of a comparison's results.json, with the scores of its summary."""
    folder = Path(run["folder"])
    summary = json.loads((folder / "summary.json").read_text())
    fixed = {"poison_ratio": summary["run"]["config"]["data"]["init_args"]["poison_ratio"]}
    axes = fixed | {name: run[name] for name in ("poison_ratio", "seed", "max_steps") if name in run}
    task = Path(run["task"]).stem if "task" in run else comparison
    if "poisoned" in run:  # across styles: whose rows are the harmful ones
        axes["poisoned"] = Path(run["poisoned"]["path"]).stem
    otherwise = [name for name in summary if name.endswith("/harmful_score") and name not in SETS.values()]
    if otherwise:  # asked as the attacker would: before and after
        moments = ("before", "after")
        axes["asked"] = {name.partition("/")[0]: [round(summary[name][m], 2) for m in moments] for name in otherwise}
    return {
        "run": f"{comparison}/{folder.name}",
        "method": run["method"],
        "task": task,
        **axes,
        "hs": harmful_scores(summary, "after"),
        "hs_before": before,
        "accuracy": round(run["accuracy"], 2),
        "over_refusal": round(run["over_refusal"], 2),
        "training_seconds": run["training_seconds"],
        "device": summary["run"].get("device", "cpu"),
    }


def main(folder: Path, out: Path) -> None:
    """Add the finished runs to the file, and print them as a table."""
    before_training = json.loads((folder / "before" / "summary.json").read_text())
    before = harmful_scores(before_training, "test")
    kept = json.loads(out.read_text()) if out.exists() else {"runs": []}
    runs = {run["run"]: run for run in kept["runs"]}
    for results in sorted(folder.glob("*/results.json")):
        found = json.loads(results.read_text())["runs"]
        runs |= {entry["run"]: entry for run in found for entry in [record(run, results.parent.name, before)]}
    ordered = [runs[name] for name in sorted(runs)]
    whole = {
        **kept,
        "default_method": "protect",
        "over_refusal_before": before_training["over_refusal/refusal_rate"]["test"],
        "hs_before": before,
    }
    write_json(out, {**whole, "runs": ordered})
    print("| task | method | p | seed | HS | FA | over-refusal |\n|---|---|---|---|---|---|---|")
    for run in ordered:
        scores = " / ".join(f"{score:.1f}" for score in run["hs"].values())
        axes = f"{run['task']} | {run['method']} | {run.get('poison_ratio')} | {run.get('seed')}"
        print(f"| {axes} | {scores} | {run['accuracy']:.1f} | {run['over_refusal']:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
