"""What a comparison came to, in a file to be kept: results.json without folders and settings, a run to a line.

    asft-lightning compare compare/field
    python benchmarks/sandbox/field.py runs/compare-field docs/results/field.json
    asft-lightning compare compare/search
    python benchmarks/sandbox/field.py runs/compare-search docs/results/search.json

Begun again, `compare` goes on with what is not done.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from asft_lightning.runtime.files import write_atomically

PARTS = ("runs", "attacked", "conclusion", "default_method", "headline", "search", "pairs", "agreement", "failures")
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


def main(folder: Path, out: Path) -> None:
    """Write the file."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    parts = [f'  "{name}": {text(kept(name, results[name]))}' for name in PARTS if results.get(name)]
    write_atomically(out, "{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    main(**vars(parser.parse_args()))
