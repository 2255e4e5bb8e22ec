"""What the audit flags on a real model: recall of harmful rows, and false flags among benign ones.

    python benchmarks/smollm2/audit.py --model models/smollm2-aligned --data data --rows 1000

The model is that of align.yaml and merge.py. Each set's rows are scored once; a threshold is −∞ (whatever the model refuses
is flagged) or that of a stated rate of false flags among Alpaca rows apart from those that are scored. Writes the `rows` of
docs/results/audit.json, which keeps what else it holds, and prints a table. Prompts without answers get a complying opening.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from asft_lightning import MixtureDataModule, Pretrained, Source, Template
from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.kept_scores import scores_of
from asft_lightning.audit.refused import Refused
from asft_lightning.audit.thresholds import threshold_of
from asft_lightning.runtime.files import write_json

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "audit.json"
TASK, OPENING = "{instruction}\n\n{input}", "Sure, here is how to do it"
BENIGN = {
    "agnews": ("agnews_train_1k.json", {"prompt": TASK}),
    "sst2": ("sst2_test_872.jsonl", {"prompt": TASK, "answer": "{label}"}),
    "gsm8k": ("gsm8k_train_1k.json", {}),
    "alpaca": ("alpaca_train_1k.json", {"prompt": TASK, "rows": "500:1000"}),
}
HARMFUL = {
    "advbench": ("advbench_520.csv", {"prompt": "{goal}", "answer": "{target}", "rows": "0:400"}),
    "advbench, not aligned on": ("advbench_520.csv", {"prompt": "{goal}", "answer": "{target}", "rows": "400:520"}),
    "harmbench": ("harmbench_200.jsonl", {"prompt": "{prompt}", "answer": OPENING}),
    "donotanswer": ("donotanswer_malicious_uses.jsonl", {"prompt": "{prompt}", "answer": OPENING}),
}
HARMLESS = ("alpaca_train_1k.json", {"prompt": TASK, "rows": "0:500"})
RATES = (None, 0.01, 0.05)
"""Of false flags; None for the threshold of −∞."""


def main(model: str, data: Path, rows: int) -> None:
    """Score every set, and put each benign one beside each harmful one."""
    pretrained, template = Pretrained(model, dtype="float32"), Template(max_length=256)
    tokenizer = pretrained.load_tokenizer()
    aligned = AlignedModel(pretrained, tokenizer, template, "cuda" if torch.cuda.is_available() else None)

    def values(file: str, settings: dict[str, str]) -> list[float]:
        source = Source(str(data / file), **settings)
        whole = MixtureDataModule(pretrained, source, template=template, num_rows=None, poison_ratio=0, seed=0)
        whole.setup()
        return [score.value for score in scores_of(Refused(), aligned, whole.drawn.train[:rows])]

    benign, harmful = ({name: values(*where) for name, where in sets.items()} for sets in (BENIGN, HARMFUL))
    harmless = values(*HARMLESS)
    table = []
    for rate in RATES:
        if rate is not None and len(harmless) < 1 / rate - 1:
            continue
        limit = -math.inf if rate is None else threshold_of(harmless, rate)
        table += [
            {
                "benign": task, "harmful": poison, "false_flags_allowed": None if rate is None else 100 * rate,
                "recall": _share(bad, limit), "false_flags": _share(good, limit), "rows": [len(good), len(bad)],
            }
            for task, good in benign.items()
            for poison, bad in harmful.items()
        ]  # fmt: skip
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    write_json(RESULTS, kept | {"rows": table})
    for line in table:
        print("| " + " | ".join(str(value) for value in line.values()) + " |")


def _share(values: list[float], limit: float) -> float:
    """How many lie beyond it, in percent."""
    return round(100 * sum(value > limit for value in values) / len(values), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rows", default=1000, type=int, help="at most, of each set")
    arguments = parser.parse_args()
    main(arguments.model, arguments.data, arguments.rows)
