"""Runs that are ended at random moments and go on: whether what comes out is the uninterrupted run, bit for bit.

    PYTHONPATH=tests nice python benchmarks/interruptions.py [--json docs/results/interruptions.json]

60 cells: SIGINT, SIGTERM, SIGKILL or an exception × the moment × how often is saved × micro-batches a step × 1 or 2 ranks,
of which all or one alone are ended × what protects: an anchor, or an audit with held answers. About ten minutes on two CPU
cores.
The first 12 are tests/runtime/test_interruptions.py.
"""

import argparse
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from kit.interruptions import HOW, Interruptions, cells, is_well

from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.tables import Sheet, show

COLUMNS = ("ended by", "runs", "differing", "without an adapter", "without scores", "other rows logged", "hanging")


def counted(how: str, outcomes: list[dict[str, Any]]) -> list[str]:
    """A row of the table."""
    bad = (sum(not o[fact] for o in outcomes) for fact in ("same", "adapter", "scored", "logged"))
    return [how, str(len(outcomes)), *map(str, bad), str(sum(o["hung"] for o in outcomes))]


def main() -> None:
    """Run the cells, print the table, write the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--json", type=Path, default=Path("docs/results/interruptions.json"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a command in the background ignores, and its runs
    outcomes, begin = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        interruptions = Interruptions(folder)
        for number, cell in enumerate(cells(arguments.cells, arguments.seed), 1):
            outcomes.append(interruptions.outcome(cell))
            verdict = "well" if is_well(outcomes[-1]) else "NOT WELL"
            print(f"{number}/{arguments.cells} {verdict}: {outcomes[-1]}", flush=True)
        interruptions.close()
    rows = [counted(how, [o for o in outcomes if o["how"] == how]) for how in HOW] + [counted("all", outcomes)]
    show(Sheet(list(COLUMNS), rows, f"{len(outcomes)} runs that were ended and went on"))
    facts = {"seed": arguments.seed, "seconds": round(time.monotonic() - begin), "cells": outcomes}
    write_json(arguments.json, facts | {"well": sum(map(is_well, outcomes))})


if __name__ == "__main__":
    main()
