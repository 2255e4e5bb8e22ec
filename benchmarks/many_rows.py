"""Many rows from a file to the first batch: seconds, the processor's seconds, memory, and a hash of what came out.

    python benchmarks/many_rows.py --model DIR_OF_A_CHAT_MODEL

300 000 rows of words drawn at random, an instruction and an answer of ten words each, in Alpaca's columns. Of the model only
the tokenizer is read. Another version of the package is measured with PYTHONPATH set to its folder: time both in turns, on a
machine that does nothing else. The hash tells whether both train on the same.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from asft_lightning import MixtureDataModule, Pretrained, Source

LETTERS = "etaoinshrdlu"


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


def main() -> None:
    """Write the rows, read them, print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox:aligned")
    parser.add_argument("--rows", type=int, default=300_000)
    arguments = parser.parse_args()
    pretrained = Pretrained(arguments.model)
    pretrained.load_tokenizer()  # with what it imports: no row's share
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, arguments.rows)
        before, seconds, processor = peak(), time.perf_counter(), time.process_time()
        data = MixtureDataModule(pretrained, Source(str(path)), num_rows=arguments.rows, poison_ratio=0, seed=0)
        data.setup()
        next(iter(data.train_dataloader()))
    taken, busy = time.perf_counter() - seconds, time.process_time() - processor
    memory = f"{peak() - before:.0f} MiB beside {before:.0f}"
    print(
        f"{arguments.rows} rows: {taken:.1f} s, of the processor {busy:.1f} s; {memory}; "
        f"sha256 {str(data.fingerprint()['data_sha256'])[:12]}"
    )


if __name__ == "__main__":
    main()
