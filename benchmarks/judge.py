"""BCE alone and with each contrastive loss on SemEval-2018 E-c English: macro F1, micro F1, Jaccard on its test rows.

    python benchmarks/judge.py --model DIR_OF_SMOLLM2 --data DIR_OF_EN_TSV --json docs/results/judge-semeval.json

α and T of each loss are searched on the development rows with one seed, five runs a loss: α 0.001, 0.01, 0.1 at T 1, then T
0.5 and 2 at the best α. Thresholds are chosen on the same rows. Then the two best losses and BCE run on three seeds, the
others on one, and are tested. Made for a GPU: 37 runs of 3 epochs over 6838 rows. ``--rows`` takes fewer of each file.
"""

import argparse
import csv
import json
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Bench:
    """What runs are made with, and how many of them at once.

    Args:
        options: The command line's.
        data: The labels and the sources.
    """

    options: argparse.Namespace
    data: Mapping[str, Any]

    def run(self, job: tuple[Setting, int, bool]) -> dict[str, float]:
        """The figures of one run, of the development rows at 0.5, or of the test rows at the thresholds.

        Args:
            job: The setting, the seed, and whether the run is tested.
        """
        setting, seed, is_tested = job
        seed_everything(seed, verbose=False)
        rows = LabelledDataModule(**self.data, batch_size=32, seed=seed, group_by_length=True)
        module = JudgeTrainer(
            Pretrained(self.options.model), text="{answer}", max_length=128, lora=LORA, lr_scheduler="linear",
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.0), **setting,
        )  # fmt: skip
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                devices=1,
                max_epochs=self.options.epochs,
                precision=self.options.precision,
                default_root_dir=folder,
                check_val_every_n_epoch=self.options.epochs,
                num_sanity_val_steps=0,
                **quiet,
            )
            trainer.fit(module, rows)
            scores = trainer.test(module, rows, verbose=False)[0] if is_tested else trainer.callback_metrics
        return {name: 100 * float(scores[f"{'test' if is_tested else 'val'}/{name}"]) for name in FIGURES}

    def runs(self, jobs: Sequence[tuple[Setting, int, bool]], progress: str) -> list[dict[str, float]]:
        """The figures of each run."""
        if self.options.jobs == 1:
            return [self.run(job) for job in tqdm(jobs, progress)]
        with ProcessPoolExecutor(self.options.jobs, multiprocessing.get_context("spawn")) as pool:
            return list(tqdm(pool.map(self.run, jobs), progress, len(jobs)))

    def search(self) -> dict[str, tuple[Setting, float]]:
        """{loss: the best of five settings on the development rows, the mean of its three figures}."""
        best: dict[str, tuple[Setting, float]] = {loss: ({"alpha": 0.0}, 0.0) for loss in self.options.losses}
        for alphas, temperatures in (((0.001, 0.01, 0.1), (1.0,)), (None, (0.5, 2.0))):
            settings = [
                {"contrastive": loss, "alpha": alpha, "temperature": temperature}
                for loss in best
                for alpha in alphas or (best[loss][0]["alpha"],)
                for temperature in temperatures
            ]
            found = self.runs([(setting, 0, False) for setting in settings], "Search")
            for setting, figures in zip(settings, found, strict=True):
                loss, score = setting["contrastive"], mean(figures.values())
                best[loss] = max(best[loss], (setting, score), key=lambda pair: pair[1])
        return best


def main() -> None:
    """Search, test, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model's folder")
    parser.add_argument("--data", type=Path, required=True, help="the folder of en-train.tsv, en-dev.tsv, en-test-gold.tsv")
    parser.add_argument("--rows", type=int, help="rows of each file; all where it is left out")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on a CPU without bf16")
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=LOSSES)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, in processes of their own")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        labels, parts = sources(options.data, Path(work), options.rows)
        bench = Bench(options, {"labels": labels, **parts})
        found = bench.search()
        leading = sorted(found, key=lambda loss: found[loss][1], reverse=True)[:2]
        settings: dict[str, Setting] = {"BCE": {}} | {loss: setting for loss, (setting, _) in found.items()}
        jobs = [(name, seed) for name in settings for seed in ((1, 2, 3) if name in ("BCE", *leading) else (1,))]
        tested = bench.runs([(settings[name], seed, True) for name, seed in jobs], "Test")
    results = [
        {
            "loss": name,
            "setting": setting,
            "development": found[name][1] if name in found else None,
            "test": [{"seed": seed, **run} for (loss, seed), run in zip(jobs, tested, strict=True) if loss == name],
        }
        for name, setting in settings.items()
    ]
    print(as_markdown(["loss", "α", "T", "seeds", "macro F1", "micro F1", "Jaccard"], [_line(line) for line in results]))
    if options.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        write_json(options.json, {"device": device, "rows": options.rows, "epochs": options.epochs, "results": results})


def _line(result: dict[str, Any]) -> list[Any]:
    """A row of the table: mean and spread over the seeds."""
    setting, runs = result["setting"], result["test"]
    figures = ([run[name] for run in runs] for name in FIGURES)
    spread = [f"{mean(found):.1f} ± {pstdev(found):.1f}" for found in figures]
    return [result["loss"], setting.get("alpha", ""), setting.get("temperature", ""), len(runs), *spread]


if __name__ == "__main__":
    main()
