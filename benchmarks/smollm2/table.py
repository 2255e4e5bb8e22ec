"""The table of docs/real-model.md from finished runs: python benchmarks/smollm2/table.py runs/smollm2 [OUT.json]."""

import json
import sys
from pathlib import Path

METRICS = ("safety/harmful_score", "utility/accuracy")


def row(summary: Path) -> dict[str, object]:
    """One run's figures; of one that only tested a finished adapter there are none before training."""
    content = json.loads(summary.read_text())
    run = {key: content.get("run", {}).get(key) for key in ("method", "lambda_reg", "drift_budget", "anchors", "seed")}
    counts = {key: content.get("run", {}).get(key) for key in ("rows", "harmful_rows", "safety_rows")}
    scores = {}
    for metric in METRICS:
        found = content[metric]
        scores |= {f"{metric} before": found.get("before"), f"{metric} after": found.get("after", found.get("test"))}
    return {"run": summary.parent.name, **run, **counts, **scores}


def main(folder: Path, out: Path | None) -> None:
    """Print the Markdown table; write the figures where asked to."""
    finished = [path for path in sorted(folder.glob("*/summary.json")) if METRICS[1] in path.read_text()]
    rows = [found for found in map(row, finished) if found[f"{METRICS[1]} after"] is not None]
    print("| run | HS before | HS after | FA before | FA after |\n|---|---|---|---|---|")
    for found in rows:
        figures = [found[f"{metric} {when}"] for metric in METRICS for when in ("before", "after")]
        print(f"| {found['run']} | {' | '.join('–' if value is None else f'{value:.1f}' for value in figures)} |")
    if out:
        out.write_text(json.dumps({"runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
