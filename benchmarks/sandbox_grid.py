"""HS and FA on the sandbox: λ × poison ratio × anchor × seed, each through the command line a user has.

    python benchmarks/sandbox_grid.py                 # docs/results/sandbox-grid.json and the table of docs/results.md

Runs that are done are kept: an interrupted grid goes on. One process a core, one thread a process.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from tqdm import tqdm

ANCHORS = {
    "gram": [{"class_path": "asft_lightning.Gram"}],
    "subspace": [{"class_path": "asft_lightning.Subspace", "init_args": {"num_directions": 8}}],
    "shrinkage": [{"class_path": "asft_lightning.Shrinkage"}],
}
METHODS = {
    "sft": "SFT",
    "gram": "AsFT, `Gram`",
    "subspace": "AsFT, `Subspace(num_directions=8)`",
    "shrinkage": "AsFT, `Shrinkage`",
}


@dataclass(frozen=True)
class Run:
    """One cell and seed of the grid."""

    anchor: str
    lambda_reg: float
    poison_ratio: float
    seed: int

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.anchor}-l{self.lambda_reg:g}-p{self.poison_ratio:g}-s{self.seed}"

    def command(self, folder: Path, extra: Sequence[str]) -> list[str]:
        """What a user would type."""
        anchors = ANCHORS["shrinkage" if self.anchor == "none" else self.anchor]
        # fmt: off
        return [
            str(Path(sys.executable).with_name("asft-lightning")), "fit", "--config", "configs/quickstart.yaml",
            "--seed_everything", str(self.seed), "--model.init_args.lambda_reg", str(self.lambda_reg),
            "--model.init_args.anchors", json.dumps(anchors), "--data.init_args.poison_ratio", str(self.poison_ratio),
            "--trainer.default_root_dir", str(folder / self.name), "--trainer.enable_checkpointing", "false", *extra,
        ]
        # fmt: on

    def result(self, folder: Path, extra: Sequence[str]) -> dict[str, object]:
        """Its scores in percent; trains first where that was not done yet."""
        summary = folder / self.name / "summary.json"
        if not _finished(summary):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(self.command(folder, extra), env=environment, capture_output=True, text=True)
            if done.returncode or not _finished(summary):
                raise RuntimeError(f"{self.name} failed:\n{done.stderr[-2000:]}")
        scores = json.loads(summary.read_text())
        safety, utility = scores["safety/harmful_score"], scores["utility/accuracy"]
        return {
            "method": self.anchor if self.anchor != "none" else "sft",
            "lambda_reg": self.lambda_reg,
            "poison_ratio": self.poison_ratio,
            "seed": self.seed,
            "harmful_score": safety["after"],
            "accuracy": utility["after"],
            "harmful_score_before": safety["before"],
            "accuracy_before": utility["before"],
        }


def _finished(summary: Path) -> bool:
    return summary.is_file() and all(
        "after" in json.loads(summary.read_text()).get(metric, {}) for metric in ("safety/harmful_score", "utility/accuracy")
    )


def grid(
    lambdas: Iterable[float], poison_ratios: Sequence[float], anchors: Iterable[str], seeds: Sequence[int]
) -> list[Run]:
    """λ = 0 once, since no anchor matters there; every other λ with every anchor."""
    cells = [("none", 0.0), *((anchor, value) for value in lambdas for anchor in anchors)]
    return [Run(anchor, value, p, seed) for seed in seeds for p in poison_ratios for anchor, value in cells]


def table(runs: Sequence[dict[str, object]]) -> str:
    """Mean ± standard deviation over seeds, as Markdown: a row for each method and λ, two columns for each poison ratio."""
    cells: defaultdict[tuple[object, ...], list[dict[str, object]]] = defaultdict(list)
    for run in runs:
        cells[run["method"], run["lambda_reg"], run["poison_ratio"]].append(run)
    ratios = sorted({run["poison_ratio"] for run in runs})
    header = ["method", "λ", *(f"{score}, p = {p:g}" for p in ratios for score in ("HS", "FA"))]
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    for method, strength in dict.fromkeys((run["method"], run["lambda_reg"]) for run in runs):
        found = [cells[method, strength, p] for p in ratios]
        figures = [_spread([run[key] for run in cell]) for cell in found for key in ("harmful_score", "accuracy")]
        lines.append(" | ".join([METHODS[method], f"{strength:g}", *figures]))
    return "\n".join(f"| {line} |" for line in lines)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def main() -> None:
    """Run the grid, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lambdas", type=float, nargs="+", default=[3.0])
    parser.add_argument("--poison-ratios", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--anchors", nargs="+", choices=ANCHORS, default=list(ANCHORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/sandbox-grid"))
    parser.add_argument("--json", type=Path, default=Path("docs/results/sandbox-grid.json"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options, extra = parser.parse_known_args()
    runs = grid(options.lambdas, options.poison_ratios, options.anchors, options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(tqdm(pool.map(lambda run: run.result(options.folder, extra), runs), total=len(runs), desc="Runs"))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"runs": results}, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
