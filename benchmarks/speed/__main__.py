"""Speed beside what a user would run instead: one Markdown table, and a JSON file with every figure.

    python benchmarks/speed --model models/smollm2 --rows data/agnews_train_1k.json --json docs/results/speed-cpu.json

Without ``--only`` it takes twenty minutes on two cores. ``--model`` (any causal LM with a chat template) and ``--rows`` are
needed for the parts that run a model; ``full``, ``answers`` and ``threads`` run only where they are named, and ``answers``
needs ``--prompts``, AdvBench's, as well.
Ratios are what counts: both sides ran in turns on one machine.
"""

import argparse
import platform
from dataclasses import asdict
from pathlib import Path

import answers
import building
import contrastive
import full
import generation
import penalty
import threads
import torch
import training
from figures import HEADER, Figure
from tqdm import tqdm
from transformers.utils import logging

from asft_lightning.runtime.files import write_json

PARTS = {
    "penalty": penalty.measure,
    "build": building.measure,
    "contrastive": contrastive.measure,
    "training": training.measure,
    "activation": training.activation,
    "generation": generation.measure,
    "full": full.measure,
    "answers": answers.measure,
    "threads": threads.measure,
}
MODEL_PARTS = {"training", "activation", "generation", "answers", "threads"}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part not in ("answers", "full", "threads")]
    )
    parser.add_argument("--model", help="a model's folder, for the parts that run one")
    parser.add_argument("--rows", type=Path, help="AG News rows, json with instruction, input, output")
    parser.add_argument("--prompts", type=Path, help="AdvBench's prompts, csv with goal, target, for the part `answers`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5, help="paired runs that a median is taken over")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    if not MODEL_PARTS.isdisjoint(options.only) and not (options.model and options.rows):
        parser.error(f"{', '.join(sorted(MODEL_PARTS))} need --model and --rows; leave them out with --only penalty build")
    if "answers" in options.only and not options.prompts:
        parser.error("answers needs --prompts, a file of unsafe prompts")
    logging.disable_progress_bar()
    figures: list[Figure] = []
    for part in tqdm(options.only, desc="Parts"):
        inputs = (options.model, options.rows) if part in MODEL_PARTS else ()
        inputs += (options.prompts,) if part == "answers" else ()
        for figure in PARTS[part](options.repeats, options.device, *inputs):
            figures.append(figure)
            tqdm.write(figure.row())
    print("\n".join([HEADER, *(figure.row() for figure in figures)]))
    if options.json:
        machine = {
            "device": options.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "cpu": platform.machine(),
        }
        content = {"machine": machine, "figures": [{**asdict(figure), "ratio": figure.ratio} for figure in figures]}
        write_json(options.json, content)


if __name__ == "__main__":
    main()
