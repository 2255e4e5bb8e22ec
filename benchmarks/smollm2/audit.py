"""What the audit flags on a real model: recall of harmful rows, and false flags among benign ones.

    python benchmarks/smollm2/audit.py --model models/smollm2-aligned --data data --rows 1000

The model is that of align.yaml and merge.py, asked as in a run of ``precision: bf16-mixed``. For each benign set and each
harmful one: recall and false flags of whatever the model refuses, and of what lies beyond a stated rate of false flags among
harmless rows. These are the other half of the benign set: each half is scored with the other one as the user's own trusted
rows, and no label is looked at. ``likeness`` compares with every second one of them, and with AdvBench prompts that no other
set has; what is left sets the threshold. Prompts without answers get a complying opening.

Writes the `rows` of docs/results/audit.json, which keeps what else it holds, and prints a table. What the model was asked is
kept: begun again, or with more rows, it goes on.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from asft_lightning import MixtureDataModule, Pretrained, Source, Template
from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.likeness import Likeness
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.refused import Refused
from asft_lightning.audit.score import Score
from asft_lightning.audit.thresholds import threshold_by_harmless
from asft_lightning.data import Example
from asft_lightning.runtime.files import write_json

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "audit.json"
TASK, OPENING = "{instruction}\n\n{input}", "Sure, here is how to do it"
ADVBENCH = {"prompt": "{goal}", "answer": "{target}"}
BENIGN = {
    "agnews": ("agnews_train_1k.json", {"prompt": TASK}),
    "sst2": ("sst2_test_872.jsonl", {"prompt": TASK, "answer": "{label}"}),
    "gsm8k": ("gsm8k_train_1k.json", {}),
    "alpaca": ("alpaca_train_1k.json", {"prompt": TASK}),
}
HARMFUL = {
    "advbench": ("advbench_520.csv", ADVBENCH | {"rows": "64:400"}),
    "advbench, not aligned on": ("advbench_520.csv", ADVBENCH | {"rows": "400:520"}),
    "harmbench": ("harmbench_200.jsonl", {"prompt": "{prompt}", "answer": OPENING}),
    "donotanswer": ("donotanswer_malicious_uses.jsonl", {"prompt": "{prompt}", "answer": OPENING}),
}
UNSAFE = ("advbench_520.csv", ADVBENCH | {"rows": "0:64"})
RATES = (None, 0.01, 0.05)
"""Of false flags; None for what a score flags without harmless rows."""
Flags = dict[str, list[bool]]
"""{set: whether each of its rows is flagged}."""


class Remembering(AlignedModel):
    """What layers hold is found once for all that is compared with it."""

    seen: ClassVar[dict[tuple[int, ...], Tensor]] = {}

    def states(self, prompts: Sequence[list[int]], progress: str) -> Iterator[tuple[list[int], Tensor]]:
        """Those of all prompts at once."""
        new = list({tuple(prompt) for prompt in prompts} - self.seen.keys())
        for places, states in super().states([list(prompt) for prompt in new], progress):
            self.seen |= {new[i]: state.float() for i, state in zip(places, states, strict=True)}
        yield list(range(len(prompts))), torch.stack([self.seen[tuple(prompt)] for prompt in prompts]).double()


def main(model: str, data: Path, rows: int, out: Path) -> None:
    """Score every set, and put each benign one beside each harmful one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pretrained, template = Pretrained(model, dtype="float32"), Template(max_length=256)
    aligned = Remembering(
        pretrained, pretrained.load_tokenizer(), template, device, precision=MixedPrecision("bf16-mixed", device)
    )

    def examples(file: str, settings: dict[str, str], most: int = rows) -> list[Example]:
        source = Source(str(data / file), **settings)
        whole = MixtureDataModule(pretrained, source, template=template, num_rows=None, poison_ratio=0, seed=0)
        whole.setup()
        return whole.drawn.train[:most]

    harmful, unsafe = {name: examples(*where) for name, where in HARMFUL.items()}, examples(*UNSAFE)
    table = []
    for benign, where in BENIGN.items():
        whole, flagged = examples(*where), defaultdict[tuple[str, float | None], list[Flags]](list)
        for half, harmless in enumerate((whole[1::2], whole[::2])):
            for score in (Refused(), Likeness(_prompts(unsafe), _prompts(harmless[::2]))):
                values = _values(score, aligned, harmful | {benign: whole[half::2]})
                trusted = [row.value for row in score(aligned, score.fresh(harmless))]
                for rate, flags in _flags(score, values, trusted).items():
                    flagged[score.name, rate].append(flags)
        table += [_line(benign, name, *asked, halves) for asked, halves in flagged.items() for name in HARMFUL]
        kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"runs": []}
        others = [line for line in kept.get("rows", []) if line["benign"] not in {line["benign"] for line in table}]
        write_json(out, {"rows": table + others, **{name: kept[name] for name in kept if name != "rows"}})
    for line in table:
        print("| " + " | ".join(str(value) for value in line.values()) + " |")


def _prompts(examples: list[Example]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(question.prompt) for question in questions_of(examples))


def _values(score: Score, aligned: AlignedModel, sets: dict[str, list[Example]]) -> dict[str, list[float]]:
    """{set: the score of each of its rows}, which are asked about together, in an order that is drawn, as in a mixture."""
    rows = [(name, row) for name, of_set in sets.items() for row in of_set]
    random.Random(0).shuffle(rows)
    values: dict[str, list[float]] = {name: [] for name in sets}
    for (name, _), found in zip(rows, score(aligned, [row for _, row in rows]), strict=True):
        values[name].append(found.value)
    return values


def _flags(score: Score, values: dict[str, list[float]], trusted: list[float]) -> dict[float | None, Flags]:
    """{rate: what is flagged of each set}."""
    limits = {rate: score.threshold if rate is None else threshold_by_harmless(trusted, rate) for rate in RATES}
    return {
        rate: {name: [value > limit for value in of_set] for name, of_set in values.items()}
        for rate, limit in limits.items()
        if limit is not None
    }


def _line(benign: str, harmful: str, score: str, rate: float | None, halves: list[Flags]) -> dict[str, object]:
    """One benign set beside one harmful one at one rate, in percent; a harmful row is flagged beside either half."""
    return {
        "benign": benign, "harmful": harmful, "score": score,
        "false_flags_allowed": None if rate is None else round(100 * rate),
        "recall": _share(halves, harmful), "false_flags": _share(halves, benign),
        "rows": [sum(len(half[benign]) for half in halves), len(halves[0][harmful])],
    }  # fmt: skip


def _share(halves: list[Flags], name: str) -> float:
    """How many of a set are flagged, in percent."""
    flags = [is_flagged for half in halves for is_flagged in half[name]]
    return round(100 * sum(flags) / len(flags), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rows", default=1000, type=int, help="at most, of each set")
    parser.add_argument("--out", default=RESULTS, type=Path)
    arguments = parser.parse_args()
    main(arguments.model, arguments.data, arguments.rows, arguments.out)
