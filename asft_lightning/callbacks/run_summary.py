"""summary.json: what a run measured, and all that is needed to know what it was."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from asft_lightning.files import write_json

_PACKAGES = ("asft-lightning", "torch", "lightning", "transformers", "peft", "torchmetrics", "datasets")


class RunSummary:
    """The file ``summary.json`` in a run's folder, read, added to, and written whole each time.

    A metric's entry is ``{"before": x, "after": y, "steps": {"50": z}}`` in its own unit.

    Args:
        folder: The run's folder, ``trainer.default_root_dir``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "summary.json"

    def read(self) -> dict[str, Any]:
        """The content so far; empty where there is none."""
        content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        return content

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin a run that starts from step 0: versions, seed, config, and fingerprints of data and method."""
        write_json(self.path, {"run": _describe(trainer, module)})

    def record(self, scores: dict[str, float], when: str) -> None:
        """Add scores at ``before``, ``after``, ``test``, or a step's number."""
        content = self.read()
        for metric, value in scores.items():
            entry = content.setdefault(metric, {})
            (entry.setdefault("steps", {}) if when.isdigit() else entry)[when] = value
        write_json(self.path, content)

    def show(self) -> None:
        """Print the table of before and after."""
        table = Table(title="Before and after fine-tuning", title_justify="left")
        for heading in ("metric", "before", "after", "change"):
            table.add_column(heading, justify="left" if heading == "metric" else "right")
        for metric, entry in self.read().items():
            if metric != "run":
                before, after = entry.get("before"), entry.get("after")
                change = None if before is None or after is None else after - before
                table.add_row(metric + " (%)", _figure(before), _figure(after), _figure(change, "+"))
        Console().print(table)
        Console().print(f"written to {self.path}", soft_wrap=True, highlight=False)


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.1f}"


def _describe(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    config = Path(trainer.default_root_dir) / "config.yaml"
    parts: tuple[Any, ...] = (module, getattr(trainer, "datamodule", None))
    return {
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        **{key: value for part in parts if hasattr(part, "fingerprint") for key, value in part.fingerprint().items()},
        "config": yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None,
    }
