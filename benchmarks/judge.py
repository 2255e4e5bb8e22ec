"""BCE alone and with each contrastive loss on SemEval-2018 E-c English: macro F1, micro F1, Jaccard on its test rows.

    python benchmarks/judge.py --model DIR_OF_SMOLLM2 --data DIR_OF_EN_TSV --json docs/results/judge-semeval.json

α and T of each loss are searched on the development rows with one seed, five runs a loss: α 0.001, 0.01, 0.1 at T 1, then T
0.5 and 2 at the best α. Thresholds are chosen on the same rows. Then the two best losses and BCE run on three seeds, the
others on one, and are tested. Made for a GPU: 37 runs of 3 epochs over 6838 rows. ``--rows`` takes fewer of each file.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from tqdm import tqdm

from asft_lightning import JudgeTrainer, LabelledDataModule, Pretrained, Source
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.terminal import as_markdown

LOSSES = ("SCL", "ICL", "JSCL", "JSPCL", "SLCL")
FIGURES = ("macro_f1", "micro_f1", "jaccard")
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
Setting = dict[str, Any]


def sources(folder: Path, work: Path, rows: int | None) -> tuple[list[str], dict[str, Source]]:
    """The labels, and each file as a source."""
    found, labels = {}, []
    for part, file in (("train", "en-train.tsv"), ("val", "en-dev.tsv"), ("test", "en-test-gold.tsv")):
        with (folder / file).open(encoding="utf-8", newline="") as lines:
            records = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        labels = [name for name in records[0] if name not in ("ID", "Tweet")]
        tweets = [{"tweet": r["Tweet"], "labels": [name for name in labels if r[name] == "1"]} for r in records[:rows]]
        path = work / f"{part}.jsonl"
        path.write_text("".join(f"{json.dumps(tweet)}\n" for tweet in tweets), encoding="utf-8")
        found[part] = Source(str(path), "tweet", "{tweet}", category="labels")
    return labels, found


def run(
    options: argparse.Namespace, data: Mapping[str, Any], setting: Setting, seed: int, is_tested: bool
) -> dict[str, float]:
    """The figures of one run: of the development rows at 0.5, or of the test rows at the thresholds."""
    seed_everything(seed, verbose=False)
    rows = LabelledDataModule(**data, batch_size=32, seed=seed, group_by_length=True)
    module = JudgeTrainer(
        Pretrained(options.model), text="{answer}", max_length=128, lora=LORA, lr_scheduler="linear",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.0), **setting,
    )  # fmt: skip
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            devices=1, max_epochs=options.epochs, precision=options.precision, default_root_dir=folder, **quiet
        )
        trainer.fit(module, rows)
        scores = trainer.test(module, rows, verbose=False)[0] if is_tested else trainer.callback_metrics
    return {name: 100 * float(scores[f"{'test' if is_tested else 'val'}/{name}"]) for name in FIGURES}


def search(options: argparse.Namespace, data: Mapping[str, Any], loss: str) -> tuple[Setting, float]:
    """The best of five settings on the development rows, by the mean of the three figures."""
    tried: list[tuple[float, Setting]] = []

    def best(settings: Sequence[tuple[float, float]]) -> Setting:
        for alpha, temperature in tqdm(settings, desc=loss, leave=False):
            setting = {"contrastive": loss, "alpha": alpha, "temperature": temperature}
            tried.append((mean(run(options, data, setting, 0, is_tested=False).values()), setting))
        return max(tried, key=lambda pair: pair[0])[1]

    alpha = best([(0.001, 1.0), (0.01, 1.0), (0.1, 1.0)])["alpha"]
    chosen = best([(alpha, 0.5), (alpha, 2.0)])
    return chosen, max(score for score, _ in tried)


def main() -> None:
    """Search, test, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model's folder")
    parser.add_argument("--data", type=Path, required=True, help="the folder of en-train.tsv, en-dev.tsv, en-test-gold.tsv")
    parser.add_argument("--rows", type=int, help="rows of each file; all where it is left out")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on a CPU without bf16")
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=LOSSES)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        labels, parts = sources(options.data, Path(work), options.rows)
        data = {"labels": labels, **parts}
        found = {loss: search(options, data, loss) for loss in options.losses}
        leading = sorted(found, key=lambda loss: found[loss][1], reverse=True)[:2]
        settings: dict[str, Setting] = {"BCE": {}} | {loss: setting for loss, (setting, _) in found.items()}
        results = []
        for name, setting in settings.items():
            seeds = (1, 2, 3) if name in ("BCE", *leading) else (1,)
            runs = [run(options, data, setting, seed, is_tested=True) for seed in seeds]
            results.append({"loss": name, "setting": setting, "seeds": list(seeds), "test": runs})
    table = [
        [line["loss"], *(line["setting"].get(name, "") for name in ("alpha", "temperature")), len(line["seeds"])]
        + [f"{mean(r[f] for r in line['test']):.1f} ± {pstdev(r[f] for r in line['test']):.1f}" for f in FIGURES]
        for line in results
    ]
    print(as_markdown(["loss", "α", "T", "seeds", "macro F1", "micro F1", "Jaccard"], table))
    if options.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        write_json(options.json, {"device": device, "rows": options.rows, "epochs": options.epochs, "results": results})


if __name__ == "__main__":
    main()
