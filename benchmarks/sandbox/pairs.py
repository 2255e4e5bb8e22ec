"""How much of a result on the sandbox is the pair's own: the same runs on pairs built from other seeds.

``python benchmarks/sandbox/pairs.py --seeds 0 1 2 3 4`` builds a pair for each seed (a minute on one core each), compares
methods on it as benchmarks/sandbox/pairs.yaml says, and writes the scores of all to docs/results/sandbox-pairs.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from asft_lightning.commands.fit import launch
from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.compare import Compare
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.sandbox import build_sandbox
from asft_lightning.sandbox.parts import file_hashes

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "sandbox-pairs.json"


def on_pair(folder: Path, output: Path) -> list[dict[str, Any]]:
    """The runs of the comparison on one pair, its files in place of the shipped ones."""
    comparison = load_comparison(ROOT / "benchmarks" / "sandbox" / "pairs.yaml")
    text = json.dumps(comparison.settings).replace("PAIR", str(folder))
    methods = {
        name: replace(method, settings=json.loads(json.dumps(method.settings).replace("PAIR", str(folder))))
        for name, method in comparison.methods.items()
    }
    report = Compare(replace(comparison, output=str(output), settings=json.loads(text), methods=methods), launch).run()
    report.write()
    names = ("method", "seed", "harmful_score", "accuracy", "harmful_score_before")
    return [{name: run[name] for name in names} for run in report.record()["runs"]]


def main() -> None:
    """Build, compare, write and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("runs/sandbox-pairs"))
    arguments = parser.parse_args()
    pairs = []
    for seed in arguments.seeds:
        folder = (arguments.output / f"pair-{seed}").resolve()
        if not folder.exists():
            build_sandbox(folder, seed)
        sha256 = file_hashes(folder)["aligned/model.safetensors"]
        pairs.append({"seed": seed, "sha256": sha256, "runs": on_pair(folder, arguments.output / f"runs-{seed}")})
    write_json(RESULTS, {"pairs": pairs})
    methods = list(dict.fromkeys(run["method"] for run in pairs[0]["runs"]))
    show(Sheet(["pair", *methods], [[str(pair["seed"]), *(_mean(pair, m) for m in methods)] for pair in pairs], "HS / FA"))


def _mean(pair: dict[str, Any], method: str) -> str:
    runs = [run for run in pair["runs"] if run["method"] == method]
    hs, fa = (sum(run[figure] for run in runs) / len(runs) for figure in ("harmful_score", "accuracy"))
    return f"{hs:.1f} / {fa:.1f}"


if __name__ == "__main__":
    main()
