"""What the audit costs beside training: the time of its scores on some rows, in percent of an epoch of the same rows.

    OMP_NUM_THREADS=1 python benchmarks/smollm2/audit_cost.py --model models/smollm2-aligned --data data

As behaviour/agnews.yaml and setup.yaml have it: AG News, bf16-mixed, batches of 8. Both are measured in turns in this
process: the median of all steps, and of each score the median of the audits, none of which knows another's answers. On the
CPU in seconds of its processor, so that others at work beside it count less; with ``--device cuda`` in seconds of the clock.
`surprise` finds kept what `refused` asked, and `conflict` counts the rows that it compares with. The model's loading is
counted in neither, the hashing of its weights in `refused`. Writes `cost` of docs/results/audit.json (`cost_cuda` on a GPU),
which keeps what else it holds.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from asft_lightning import Audit, LoRAFineTuner, MixtureDataModule, Pretrained, Source, Template
from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.known_rows import KnownRows
from asft_lightning.audit.scores import asked_scores
from asft_lightning.runtime.devices import device_name
from asft_lightning.runtime.files import write_json

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "audit.json"
TASK, BATCH_SIZE = "{instruction}\n\n{input}", 8


def seconds_now() -> float:
    """Of the processor, or where there is a GPU in use of the clock, when it has done what it was given."""
    if not torch.cuda.is_initialized():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class StepTimes(Callback):
    """Seconds from one step's beginning to the next's, without the first, which makes ready."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins."""
        self.began.append(seconds_now())

    @property
    def seconds(self) -> list[float]:
        """Of each step."""
        return [after - before for before, after in zip(self.began[1:], self.began[2:], strict=False)]


def main(model: str, data: Path, device: str, scores: list[str], rows: int, steps: int, audits: int, out: Path) -> None:
    """Train for some steps and audit the rows, in turns, and write both times."""
    pretrained, template = Pretrained(model, dtype="float32"), Template(max_length=256)
    source = Source(str(data / "agnews_train_1k.json"), prompt=TASK)
    settings: dict[str, Any] = {"num_rows": rows, "poison_ratio": 0, "batch_size": BATCH_SIZE, "seed": 0}
    mixture = MixtureDataModule(pretrained, source, template=template, **settings)
    audit = Audit(
        scores=scores,
        unsafe=Source(str(data / "advbench_520.csv"), prompt="{goal}", answer="{target}", rows="0:32"),
        harmless=Source(str(data / "alpaca_train_1k.json"), prompt=TASK, rows="0:100"),
    )
    if device == "cuda":
        torch.cuda.init()  # one clock from here on
    step_seconds, score_seconds = [], []
    for _ in range(audits):
        step_seconds += _steps(LoRAFineTuner(pretrained, template=template), mixture, steps, device)
        score_seconds.append(_audit(mixture, audit, device))
    epoch = median(step_seconds) * -(-rows // BATCH_SIZE)
    share = {name: 100 * median(found[name] for found in score_seconds) / epoch for name in audit.scores}
    cost = {
        "device": device_name(torch.device(device)),
        "rows": rows,
        "epoch_seconds": round(epoch, 1),
        **{f"{name}_percent": round(percent, 1) for name, percent in share.items()},
    }
    kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    write_json(out, kept | {"cost" if device == "cpu" else f"cost_{device}": cost})
    print(cost)


def _steps(module: LoRAFineTuner, mixture: MixtureDataModule, steps: int, device: str) -> list[float]:
    """Seconds of each step of a fit but the first, which makes ready."""
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "default_root_dir": folder}
        settings: dict[str, Any] = {"accelerator": device, "precision": "bf16-mixed", "devices": 1, "max_steps": steps}
        Trainer(callbacks=[times], **settings, **quiet).fit(module, mixture)
    print(f"a step: {median(times.seconds):.2f} s", flush=True)
    return times.seconds


def _audit(mixture: MixtureDataModule, audit: Audit, device: str) -> dict[str, float]:
    """Seconds of each score in an audit that nothing is known to."""
    tokenizer, precision = mixture.pretrained.load_tokenizer(), MixedPrecision("bf16-mixed", device)
    aligned = AlignedModel(mixture.pretrained, tokenizer, mixture.template, device, audit.batch_size, precision)
    layers = LoRAFineTuner(mixture.pretrained, {"target_modules": ["q_proj", "v_proj"]}).trained_layers()
    known = KnownRows.read(audit, mixture)
    assert aligned.model is not None  # loaded
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ASFT_LIGHTNING_CACHE"] = folder
        for score in asked_scores(audit, known, lambda: layers):
            begin = seconds_now()
            score(aligned, mixture.drawn.train)
            seconds[score.name] = seconds_now() - begin
            print(f"{score.name}: {seconds[score.name]:.1f} s", flush=True)
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--scores", nargs="+", default=["refused", "surprise", "conflict"])
    parser.add_argument("--rows", default=300, type=int)
    parser.add_argument("--steps", default=12, type=int, help="of training that are timed")
    parser.add_argument("--audits", default=3, type=int, help="that are timed, each after as many steps")
    parser.add_argument("--out", default=RESULTS, type=Path)
    main(**vars(parser.parse_args()))
