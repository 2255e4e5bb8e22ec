"""Packing beside padding and grouping by length: tokens computed and time of the same rows.

    python benchmarks/packing.py --model DIR_OF_A_CHAT_MODEL alpaca=ROWS.json agnews=ROWS.json [--json OUT.json]

Each file has `instruction`, `input`, `output`. 64 rows in batches of 8: forward and backward of LoRA r 8 on q and v, the
three ways in turns, three rounds, medians. About five minutes a file on two CPU cores with a model of 135 M parameters.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from asft_lightning import LoRAFineTuner, MixtureDataModule, Pretrained, Source
from asft_lightning.runtime.files import write_json

WAYS: dict[str, dict[str, bool]] = {"padded": {}, "grouped": {"group_by_length": True}, "packed": {"packing": True}}
ROWS, BATCH, ROUNDS = 64, 8, 3


def batches(pretrained: Pretrained, rows: str, way: str, device: str) -> list[dict[str, Tensor]]:
    """The batches of an epoch."""
    source = Source(rows, prompt="{instruction}\n\n{input}", answer="{output}")
    settings: dict[str, Any] = {"num_rows": ROWS, "poison_ratio": 0.0, "batch_size": BATCH, "seed": 0, **WAYS[way]}
    data = MixtureDataModule(pretrained, source, **settings)
    data.setup()
    return [{name: value.to(device) for name, value in batch.items()} for batch in data.train_dataloader()]


def epoch(module: LoRAFineTuner, epoch_batches: list[dict[str, Tensor]]) -> float:
    """Seconds of forward and backward over all batches; their losses are read, so that a device is waited for."""
    start = time.perf_counter()
    for batch in epoch_batches:
        loss = module.task_loss(batch)
        loss.backward()
        loss.item()
    return time.perf_counter() - start


def measure(pretrained: Pretrained, name: str, rows: str, device: str) -> Iterator[dict[str, object]]:
    """One line a way."""
    module = LoRAFineTuner(pretrained)
    module.configure_model()
    module.to(device).train()
    given = {way: batches(pretrained, rows, way, device) for way in WAYS}
    for way in WAYS:
        module.task_loss(given[way][0])  # the first packed batch is checked once
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            times[way].append(epoch(module, given[way]))
    for way in WAYS:
        tokens = sum(batch["input_ids"].numel() for batch in given[way])
        seconds = median(times[way])
        ratio = median(times["padded"]) / seconds
        yield {"rows": name, "way": way, "tokens": tokens, "seconds": round(seconds, 2), "times faster": round(ratio, 2)}


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("rows", nargs="+", metavar="NAME=FILE")
    options = parser.parse_args()
    pretrained = Pretrained(options.model, dtype="float32" if options.device == "cpu" else "bfloat16")
    lines = [
        line
        for name, _, file in (given.partition("=") for given in options.rows)
        for line in measure(pretrained, name, file, options.device)
    ]
    for line in lines:
        print(" | ".join(f"{key} {value}" for key, value in line.items()))
    if options.json:
        write_json(options.json, {"device": options.device, "lines": lines})


if __name__ == "__main__":
    main()
