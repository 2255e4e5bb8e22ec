"""What the audit costs beside training: the time of `refused` on some rows, in percent of an epoch of the same rows.

    OMP_NUM_THREADS=1 python benchmarks/smollm2/audit_cost.py --model models/smollm2-aligned --data data

As behaviour/agnews.yaml and setup.yaml have it: AG News, bf16-mixed, batches of 8. Both are measured in this process, on the
CPU, in seconds of its processor, so that others at work beside it count less: the median of the steps, and the median of the
audits, none of which knows another's answers. The model's loading is counted in neither, the hashing of its weights in the
audit's. Writes `cost` of docs/results/audit.json, which keeps what else it holds.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from asft_lightning import LoRAFineTuner, MixtureDataModule, Pretrained, Source, Template
from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.refused import Refused
from asft_lightning.runtime.files import write_json

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "audit.json"
BATCH_SIZE = 8


class StepTimes(Callback):
    """Seconds from one step's beginning to the next's, without the first, which makes ready."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins."""
        self.began.append(time.process_time())

    @property
    def typical(self) -> float:
        """The median."""
        return median(after - before for before, after in zip(self.began[1:], self.began[2:], strict=False))


def main(model: str, data: Path, rows: int, steps: int, audits: int, out: Path) -> None:
    """Train for some steps, audit the rows in that precision and in the checkpoint's own, and write both times."""
    pretrained, template = Pretrained(model, dtype="float32"), Template(max_length=256)
    source = Source(str(data / "agnews_train_1k.json"), prompt="{instruction}\n\n{input}")
    settings: dict[str, Any] = {"num_rows": rows, "poison_ratio": 0, "batch_size": BATCH_SIZE, "seed": 0}
    mixture = MixtureDataModule(pretrained, source, template=template, **settings)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "default_root_dir": folder}
        trainer = Trainer(accelerator="cpu", precision="bf16-mixed", max_steps=steps, callbacks=[times], **quiet)
        trainer.fit(LoRAFineTuner(pretrained, template=template), mixture)
    epoch = times.typical * -(-rows // BATCH_SIZE)
    plugins = {"bf16-mixed": MixedPrecision("bf16-mixed", "cpu"), "32-true": Precision()}
    found = {name: median(_audit(mixture, plugin) for _ in range(audits)) for name, plugin in plugins.items()}
    cost = {
        "rows": rows,
        "epoch_seconds": round(epoch, 1),
        **{f"refused_{name}_percent": round(100 * seconds / epoch, 1) for name, seconds in found.items()},
    }
    kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    write_json(out, kept | {"cost": cost})
    print(cost)


def _audit(mixture: MixtureDataModule, precision: Precision) -> float:
    """Seconds of one audit that nothing is known to."""
    aligned = AlignedModel(
        mixture.pretrained, mixture.pretrained.load_tokenizer(), mixture.template, "cpu", precision=precision
    )
    assert aligned.model is not None  # loaded
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ASFT_LIGHTNING_CACHE"] = folder
        begin = time.process_time()
        Refused()(aligned, mixture.drawn.train)
        return time.process_time() - begin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rows", default=300, type=int)
    parser.add_argument("--steps", default=12, type=int, help="of training that are timed")
    parser.add_argument("--audits", default=3, type=int, help="that are timed in each precision")
    parser.add_argument("--out", default=RESULTS, type=Path)
    main(**vars(parser.parse_args()))
