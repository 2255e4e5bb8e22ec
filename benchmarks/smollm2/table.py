"""The table of docs/real-model.md from finished runs: python benchmarks/smollm2/table.py runs/smollm2 [OUT.json]."""

import json
import sys
from pathlib import Path

from asft_lightning.runtime.files import write_json

METRICS = {
    "safety/harmful_score": "HS",
    "utility/accuracy": "FA",
    "questions/harmful_score": "HS, questions",
    "over_refusal/refusal_rate": "over-refusal",
}
"""Those that runs may have, and what the table calls them."""


def row(summary: Path) -> dict[str, object]:
    """One run's figures; of one that only tested a finished adapter there are none before training."""
    content = json.loads(summary.read_text())
    run = {key: content.get("run", {}).get(key) for key in ("method", "lambda_reg", "drift_budget", "anchors", "seed")}
    counts = {key: content.get("run", {}).get(key) for key in ("rows", "harmful_rows", "safety_rows")}
    scores = {}
    for metric in METRICS:
        score = content.get(metric, {})
        scores |= {f"{metric} before": score.get("before"), f"{metric} after": score.get("after", score.get("test"))}
    return {"run": summary.parent.name, **run, **counts, **scores}


def main(folder: Path, out: Path | None) -> None:
    """Print the Markdown table; write the figures where asked to."""
    finished = [path for path in sorted(folder.glob("*/summary.json")) if "utility/accuracy" in path.read_text()]
    rows = [run for run in map(row, finished) if run["utility/accuracy after"] is not None]
    shown = [metric for metric in METRICS if any(run[f"{metric} after"] is not None for run in rows)]
    print("| run | " + " | ".join(f"{METRICS[metric]} {when}" for metric in shown for when in ("before", "after")) + " |")
    print("|---" * (1 + 2 * len(shown)) + "|")
    for run in rows:
        figures = [run[f"{metric} {when}"] for metric in shown for when in ("before", "after")]
        print(f"| {run['run']} | {' | '.join('–' if value is None else f'{value:.1f}' for value in figures)} |")
    if out:
        write_json(out, {"runs": rows})


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
