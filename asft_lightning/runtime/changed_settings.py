"""Settings of an optimizer that a resumed run changes: torch would put those of the checkpoint back in their place."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from asft_lightning.runtime.terminal import say

Defaults = dict[str, Any]

PLAIN = (int, float, str, tuple, list, type(None))
"""What a setting may be to be kept in a checkpoint."""


def optimizer_defaults(trainer: Trainer) -> list[Defaults]:
    """What each optimizer was made with, of that the plain data."""
    return [_defaults(made) for made in trainer.optimizers]


def take_changed_settings(trainer: Trainer, before: list[Defaults]) -> None:
    """Give restored optimizers what the run now asks for, and say so; what is not changed stays as it was.

    A rate that a schedule has moved is moved as far from the new one.

    Args:
        trainer: Of the resumed run, restored.
        before: :func:`optimizer_defaults` of the run that is gone on with.
    """
    for optimizer, made_with in zip(trainer.optimizers, before, strict=False):
        now = _defaults(optimizer)
        changed = {name: value for name, value in now.items() if name in made_with and made_with[name] != value}
        if not changed:
            continue
        for group in optimizer.param_groups:
            _change(group, changed, made_with)
        _tell_schedulers(trainer, optimizer)
        if trainer.is_global_zero:
            told = ", ".join(f"{name} {value} (before: {made_with[name]})" for name, value in changed.items())
            say(f"the run goes on with another setting of its optimizer: {told}")


def _change(group: dict[str, Any], changed: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for name, value in changed.items():
        if name != "lr":
            group[name] = value if group[name] == before[name] else group[name]  # a group may have one of its own
        elif _plain(group.get("initial_lr", group["lr"])) == before["lr"]:
            group["lr"] = group["lr"] * (value / before["lr"])
            if "initial_lr" in group:
                group["initial_lr"] = value


def _tell_schedulers(trainer: Trainer, optimizer: Optimizer) -> None:
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        if getattr(scheduler, "optimizer", None) is optimizer and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]


def _defaults(optimizer: Optimizer) -> Defaults:
    found = {name: _plain(value) for name, value in optimizer.defaults.items()}
    return {name: value for name, value in found.items() if isinstance(value, PLAIN)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
