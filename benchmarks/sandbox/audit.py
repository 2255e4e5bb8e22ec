"""The `runs` of docs/results/audit.json: what training on audited rows does on the sandbox.

    asft-lightning compare benchmarks/sandbox/audit.yaml
    python benchmarks/sandbox/audit.py runs/sandbox-audit

Takes the finished runs of that comparison, or of some of its methods, keeps what else the file holds, and prints the means
over seeds as a table.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from asft_lightning.runtime.files import write_json

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "audit.json"


def record(run: dict[str, Any]) -> dict[str, Any]:
    """One run of a comparison's results.json, with what its audit found, in percent."""
    folder = Path(run["folder"])
    found = {
        "method": run["method"],
        "poison_ratio": run["settings"]["data.init_args.poison_ratio"],
        "seed": run["seed"],
        "harmful_score": run["harmful_score"],
        "accuracy": run["accuracy"],
    }
    triggered = json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("triggered/harmful_score")
    if triggered:
        found["triggered_harmful_score"] = triggered["after"]
    if (folder / "audit.json").is_file():
        sources = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["sources"]
        found |= {"recall": _flagged(sources, "harmful"), "false_flags": _flagged(sources, "benign")}
    return found


def _flagged(sources: list[dict[str, Any]], kind: str) -> float | None:
    """The share of rows of a kind that are flagged, in percent; None where there is none."""
    of_kind = [source for source in sources if source["kind"] == kind]
    rows, flagged = (sum(source[name] for source in of_kind) for name in ("rows", "flagged"))
    return round(100 * flagged / rows, 1) if rows else None


def main(folder: Path, out: Path) -> None:
    """Write the runs, and print their means."""
    runs = [record(run) for run in json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"]]
    kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"rows": []}
    made = {run["method"] for run in runs}
    write_json(out, kept | {"runs": runs + [run for run in kept.get("runs", []) if run["method"] not in made]})
    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["method"], run["poison_ratio"]].append(run)
    figures = ("recall", "false_flags", "harmful_score", "triggered_harmful_score", "accuracy")
    print(f"| method | p | {' | '.join(figures)} | seeds |")
    for (method, poison_ratio), of_group in groups.items():
        means = [_mean([run.get(figure) for run in of_group]) for figure in figures]
        print(f"| {method} | {poison_ratio} | {' | '.join(means)} | {len(of_group)} |")


def _mean(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{mean(there):.1f}" if there else "–"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the comparison")
    parser.add_argument("--out", default=RESULTS, type=Path)
    main(**vars(parser.parse_args()))
