"""What a comparison came to, as a file to be kept and a table: results.json without folders and settings, a run to a line.

    asft-lightning compare compare/field
    python benchmarks/sandbox/field.py runs/compare-field docs/results/field.json
    asft-lightning compare compare/search
    python benchmarks/sandbox/field.py runs/compare-search docs/results/search.json

Begun again, `compare` goes on with what is not done.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from asft_lightning.runtime.files import write_atomically

PARTS = ("runs", "attacked", "conclusion", "default_method", "headline", "front", "search", "pairs", "agreement", "failures")
OF_RUNS = ("runs", "attacked")
OF_THIS_MACHINE = ("folder", "settings", "steps", "log")


def kept(name: str, part: Any) -> Any:
    """One part of the results, without what says nothing elsewhere."""
    if name in OF_RUNS:
        return [{fact: value for fact, value in run.items() if fact not in OF_THIS_MACHINE} for run in part]
    if name == "failures":
        return [{fact: value for fact, value in failure.items() if fact not in OF_THIS_MACHINE} for failure in part]
    return part


def text(part: Any) -> str:
    """JSON, a list's items a line each."""
    if not (isinstance(part, list) and part):
        return json.dumps(part, ensure_ascii=False)
    items = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in part)
    return f"[\n{items}\n  ]"


HEADINGS = (
    "method", "worst HS", "FA at p 0", "under", "noise there", "asked once", "mean HS", "over-refusal", "noise", "beyond",
)  # fmt: skip


def asked_once(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Each method's HS asked plainly, mean over seeds, under the worst mixture with harmful rows."""
    scores: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        if "benign" not in str(run.get("attack")) and run.get("harmful_score") is not None:
            scores.setdefault((run["method"], str(run.get("attack"))), []).append(run["harmful_score"])
    worst: dict[str, float] = {}
    for (method, _), of_attack in scores.items():
        worst[method] = max(worst.get(method, 0.0), mean(of_attack))
    return worst


def table(results: dict[str, Any]) -> str:
    """The headline as Markdown, the lowest worst HS first."""
    once = asked_once(results["runs"])
    lines = [list(HEADINGS), ["---"] * len(HEADINGS)]
    for line in sorted(results["headline"], key=lambda one: one["worst"]["mean"]):
        deviation = line["worst"]["deviation"]
        worst = f"{line['worst']['mean']:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
        before = f" ({line['before']['mean']:.1f} before)" if line["before"] else ""
        figures = [line["noise"], once.get(line["method"]), line["mean"]]
        figures += [line[name] for name in ("over_refusal", "incoherent", "beyond")]
        attack = line["attack"] + before
        lines.append([f"`{line['method']}`", worst, shown(line["accuracy"]), attack, *map(shown, figures)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(figure: Any) -> str:
    """A figure, or the mean of one that has a deviation as well."""
    value = figure["mean"] if isinstance(figure, dict) else figure
    return "–" if value is None else f"{value:.1f}"


def main(folder: Path, out: Path) -> None:
    """Write the file, and print the table."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    parts = [f'  "{name}": {text(kept(name, results[name]))}' for name in PARTS if results.get(name)]
    write_atomically(out, "{\n" + ",\n".join(parts) + "\n}\n")
    print(table(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    main(**vars(parser.parse_args()))
