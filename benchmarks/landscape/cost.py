"""What a point costs when weights are moved in place, and when a perturbed copy is written and loaded for each point.

    python benchmarks/landscape/cost.py --aligned models/smollm2-aligned --base models/smollm2 --data data

Both score the same prompts at the same points along the alignment, by turns; prints seconds and points an hour as JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from asft_lightning import Pretrained, SafetyEvaluation, Source, Template
from asft_lightning.landscape import Aligned
from asft_lightning.landscape.landscape import Landscape
from asft_lightning.landscape.perturbation import Perturbation
from asft_lightning.landscape.scoring import PointScorer
from asft_lightning.landscape.space import Space


def seconds(do: Callable[[], object]) -> float:
    """How long something takes, until a GPU has done it."""
    begin = time.perf_counter()
    do()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main(aligned: str, base: str, data: Path, device: str, prompts: int, tokens: int, points: int) -> None:
    """Measure, and print."""
    pretrained, template = Pretrained(aligned, base, dtype="float32"), Template(max_length=256)
    source = Source(str(data / "advbench_520.csv"), "{goal}", "", rows=f"400:{400 + prompts}")
    safety = SafetyEvaluation(source, max_new_tokens=tokens, batch_size=prompts)
    tokenizer = pretrained.load_tokenizer()
    scorer = PointScorer(safety, [], None, tokenizer, template)
    landscape = Landscape(Space.of(pretrained), [Aligned()], device=device)
    perturbation, ray = Perturbation(landscape.model, landscape.space.shapes), landscape.rays["aligned"]
    taken: dict[str, list[float]] = {"in place": [], "a copy": [], "moving and putting back": [], "writing and loading": []}

    def in_place(alpha: float, score: Callable[[object], object]) -> None:
        with perturbation.at({ray: alpha}):
            score(landscape.model)

    def a_copy(alpha: float, score: Callable[[object], object]) -> None:
        with tempfile.TemporaryDirectory() as folder, perturbation.at({ray: alpha}):
            landscape.model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            score(replace(pretrained, aligned=folder).load_model().eval().to(device))

    scorer(landscape.model)  # what is done once
    for alpha in [0.02 * step for step in range(1, points + 1)]:
        taken["in place"].append(seconds(lambda alpha=alpha: in_place(alpha, scorer)))
        taken["a copy"].append(seconds(lambda alpha=alpha: a_copy(alpha, scorer)))
        taken["moving and putting back"].append(seconds(lambda alpha=alpha: in_place(alpha, bool)))
        taken["writing and loading"].append(seconds(lambda alpha=alpha: a_copy(alpha, bool)))
    found = {what: round(median(times), 3) for what, times in taken.items()}
    hourly = {f"{what}, points an hour": round(3600 / found[what], 1) for what in ("in place", "a copy")}
    ratio = {"ratio": round(found["a copy"] / found["in place"], 2)}
    settings = {"prompts": prompts, "tokens": tokens, "points": points, "device": device}
    print(json.dumps({**settings, "seconds": found, **hourly, **ratio}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aligned", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--points", type=int, default=3)
    main(**vars(parser.parse_args()))
