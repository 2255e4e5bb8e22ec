"""Many rows from a file to the first batch: seconds, the processor's seconds, memory, and a hash of what came out.

    OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 python benchmarks/many_rows.py --model models/smollm2 --beside OTHER_VERSION

300 000 rows of words drawn at random, an instruction and an answer of ten words each, in Alpaca's columns. Of the model only
the tokenizer is read. Another version of the package, by its folder, is measured in turns with this one, each time in a
process of its own, on a machine that does nothing else. The hash tells whether two versions that make it alike train on the
same.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from asft_lightning import MixtureDataModule, Pretrained, Source
from asft_lightning.runtime.files import write_json

LETTERS = "etaoinshrdlu"
FIGURES = ("seconds", "processor_seconds", "memory_mib")


def write_rows(path: Path, count: int) -> None:
    """The same rows each time; the number at the end makes every one different."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 7))) for _ in range(1000)]
    with path.open("w") as file:
        for i in range(count):
            said, answered = (" ".join(draw.choices(words, k=10)) for _ in range(2))
            file.write(json.dumps({"instruction": f"{said} {i}", "output": answered}) + "\n")


def peak() -> float:
    """Most memory of this process so far, in MiB (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(model: str, rows: int) -> dict[str, Any]:
    """Write the rows and read them: wall and processor's seconds, MiB beside what was there before, and the hash."""
    pretrained = Pretrained(model)
    pretrained.load_tokenizer()  # with what it imports: no row's share
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, rows)
        before, seconds, processor = peak(), time.perf_counter(), time.process_time()
        data = MixtureDataModule(pretrained, Source(str(path)), num_rows=rows, poison_ratio=0, seed=0)
        data.setup()
        next(iter(data.train_dataloader()))
    return {
        "seconds": round(time.perf_counter() - seconds, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "memory_mib": round(peak() - before),
        "data_sha256": str(data.fingerprint()["data_sha256"])[:12],
    }


def in_turns(model: str, rows: int, folders: dict[str, str], turns: int) -> dict[str, Any]:
    """{version: medians of what was measured}, of the packages in these folders, and what this one's are of the other's."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    for _, (name, folder) in product(range(turns), folders.items()):
        command = [sys.executable, __file__, "--model", model, "--rows", str(rows)]
        environment = os.environ | {"PYTHONPATH": folder}
        said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[name].append(json.loads(said.stdout))
        print(name, found[name][-1], flush=True)
    medians = {name: {figure: median(run[figure] for run in runs) for figure in FIGURES} for name, runs in found.items()}
    ratios = {figure: round(medians["this"][figure] / medians["beside"][figure], 3) for figure in FIGURES}
    return {"rows": rows, "turns": turns, **medians, "ratio": ratios}


def main() -> None:
    """Measure this version, or two in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox:aligned")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--beside", help="folder of another version of the package")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures of two versions")
    arguments = parser.parse_args()
    if arguments.beside is None:
        print(json.dumps(measure(arguments.model, arguments.rows)))
        return
    folders = {"beside": arguments.beside, "this": str(Path(__file__).parents[1])}
    figures = in_turns(arguments.model, arguments.rows, folders, arguments.turns)
    print("this / beside:", figures["ratio"])
    if arguments.json is not None:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
