"""What a run is: versions, seed, configuration, and what its module and data say of themselves."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import RunFacts
from asft_lightning.runtime.devices import device_name
from asft_lightning.runtime.yaml_files import read_yaml

PACKAGES = ("asft-lightning", "torch", "lightning", "transformers", "peft", "torchmetrics", "datasets")
"""Whose versions a run's figures depend on."""


def facts_of(trainer: Trainer, module: LightningModule) -> RunFacts:
    """The facts of a run that begins; of modules and data with a ``fingerprint()`` also what that tells."""
    parts: tuple[Any, ...] = (module, getattr(trainer, "datamodule", None))
    prints = [part.fingerprint() for part in parts if callable(getattr(part, "fingerprint", None))]
    config = RunFolder.of(trainer).config
    return RunFacts.from_plain(
        {
            "versions": {"python": platform.python_version(), **versions_of(PACKAGES)},
            "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            "devices": trainer.world_size,
            "device": device_name(trainer.strategy.root_device),
            "precision": str(trainer.precision),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            **{name: value for told in prints for name, value in told.items()},
            "config": read_yaml(config, "Remove it: it is none of this run.") if config.is_file() else None,
        }
    )


def versions_of(packages: Sequence[str]) -> dict[str, str | None]:
    """{package: its version}; None where there is no metadata, as of this one where it is run from its source alone."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions
