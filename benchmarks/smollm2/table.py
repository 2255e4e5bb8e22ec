"""The table of docs/real-model.md from finished runs: python benchmarks/smollm2/table.py runs/smollm2 [OUT.json]."""

import json
import sys
from pathlib import Path

METRICS = ("safety/harmful_score", "utility/accuracy")


def row(summary: Path) -> dict[str, object]:
    """One run's figures."""
    content = json.loads(summary.read_text())
    scores = {f"{metric} {when}": content[metric][when] for metric in METRICS for when in ("before", "after")}
    run = {key: content["run"].get(key) for key in ("method", "lambda_reg", "anchors", "seed", "rows", "harmful_rows")}
    return {"run": summary.parent.name, **run, **scores}


def main(folder: Path, out: Path | None) -> None:
    """Print the Markdown table; write the figures where asked to."""
    finished = [path for path in sorted(folder.glob("*/summary.json")) if "after" in path.read_text()]
    rows = [row(path) for path in finished if METRICS[1] in path.read_text()]
    print("| run | HS before | HS after | FA before | FA after |\n|---|---|---|---|---|")
    for found in rows:
        figures = " | ".join(f"{found[f'{metric} {when}']:.1f}" for metric in METRICS for when in ("before", "after"))
        print(f"| {found['run']} | {figures} |")
    if out:
        out.write_text(json.dumps({"runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
