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

from asft_lightning.runtime.files import write_json

_PACKAGES = ("asft-lightning", "torch", "lightning", "transformers", "peft", "torchmetrics", "datasets")


class RunSummary:
    """The file ``summary.json`` in a run's folder, read, added to, and written whole each time.

    A metric's entry is ``{"before": x, "after": y, "steps": {"50": z}}`` in its own unit, beside it details with the same
    keys: ``interval``, ``by_category``, ``judged_categories`` (a judge's, of what it found unsafe), ``unscored`` (answers
    left out).

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

    def record(self, metric: str, value: float | None, when: str, details: dict[str, Any]) -> None:
        """Add a score at ``before``, ``after``, ``test``, or a step's number; null where nothing could be scored.

        Args:
            metric: Its name.
            value: In its own unit.
            when: Key of the value, and of each detail.
            details: What else is known, e.g. ``{"interval": [low, high]}``.
        """
        content = self.read()
        entry = content.setdefault(metric, {})
        (entry.setdefault("steps", {}) if when.isdigit() else entry)[when] = value
        for detail, known in details.items():
            entry.setdefault(detail, {})[when] = known
        write_json(self.path, content)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Add to the time that a scoring took in all."""
        content = self.read()
        taken = content.setdefault("run", {}).setdefault("scoring_seconds", {})
        taken[name] = round(taken.get(name, 0.0) + seconds, 3)
        write_json(self.path, content)

    def add_fact(self, name: str, value: Any) -> None:
        """Add to what is known of the run, where a summary was begun."""
        if self.path.is_file():
            content = self.read()
            content.setdefault("run", {})[name] = value
            write_json(self.path, content)

    def show(self) -> None:
        """Print the table of before and after, with the intervals that there are."""
        content = self.read()
        table = Table(title="Before and after fine-tuning, with 95 % intervals", title_justify="left")
        for heading in ("metric", "before", "after", "change"):
            table.add_column(heading, justify="left" if heading == "metric" else "right")
        for metric, entry in content.items():
            if metric != "run":
                before, after = entry.get("before"), entry.get("after")
                change = None if before is None or after is None else after - before
                ranges = [_range(entry.get("interval", {}).get(when)) for when in ("before", "after")]
                table.add_row(metric + " (%)", _figure(before) + ranges[0], _figure(after) + ranges[1], _figure(change, "+"))
        console = Console()
        console.print(table)
        taken = sum(content.get("run", {}).get("scoring_seconds", {}).values())
        console.print(f"scoring took {taken:.0f} s; written to {self.path}", soft_wrap=True, highlight=False, markup=False)


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.1f}"


def _range(interval: list[float] | None) -> str:
    return f"  {interval[0]:5.1f} – {interval[1]:5.1f}" if interval else ""


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
