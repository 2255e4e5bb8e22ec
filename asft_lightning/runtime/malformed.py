"""Checkpoints of the right kind and the wrong shape: one error for all that Lightning and torch make of them."""

from collections.abc import Callable, Mapping, Set
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.optim import Optimizer

from asft_lightning.runtime.changed_settings import PLAIN
from asft_lightning.runtime.reading import is_finite, readable
from asft_lightning.runtime.trainer_callbacks import callbacks_of

_AS_A_WEIGHT = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "sum", "prev"}
)
"""What torch's optimizers keep in the shape of a weight; others keep factors or codes of it."""


def refuse_malformed(trainer: Trainer) -> None:
    """Have a trainer end in a ``ConfigurationError`` that names the checkpoint where it cannot go on from it."""
    connector = trainer._checkpoint_connector

    def refusing(restore: Callable[..., None]) -> Callable[..., None]:
        @wraps(restore)
        def restore_or_refuse(*args: Any, **kwargs: Any) -> None:
            def restored() -> None:
                made_with = [dict(optimizer.defaults) for optimizer in trainer.optimizers]  # torch adds to them
                schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
                known = [set(vars(scheduler)) for scheduler in schedulers]
                restore(*args, **kwargs)
                for optimizer, defaults in zip(trainer.optimizers, made_with, strict=True):
                    _require_sound_optimizer(optimizer, defaults, is_scheduled=bool(schedulers))
                for scheduler, names in zip(schedulers, known, strict=True):
                    _require_sound_scheduler(scheduler, names)

            path = Path(str(args[0] if args and args[0] is not None else trainer.ckpt_path))
            readable(path, restored, "a checkpoint of this run")

        return restore_or_refuse

    for name in ("_restore_modules_and_callbacks", "restore_training_state"):
        if name not in vars(connector):  # once, whatever calls it again
            setattr(connector, name, refusing(getattr(connector, name)))


def require_sound_progress(checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    """Refuse counts and generators that no run could have written: they would only show in the middle of training.

    Raises:
        ValueError: If there are some; names the place.
    """
    step = checkpoint["global_step"]
    _require(type(step) is int and step >= 0, "global_step", step)
    _require_like(trainer.fit_loop.state_dict(), checkpoint["loops"]["fit_loop"], "loops.fit_loop")
    loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    is_list = isinstance(loaders, list) and all(isinstance(loader, Mapping) for loader in loaders)
    _require(is_list, "loops.fit_loop.state_dict.combined_loader", loaders)
    for stopping in callbacks_of(trainer, EarlyStopping):
        if (state := checkpoint["callbacks"].get(stopping.state_key)) is not None:
            _require_like({"wait_count": 0, "stopped_epoch": 0}, state, "EarlyStopping")
    for made_with in checkpoint.get("optimizer_defaults", []):
        is_plain = isinstance(made_with, Mapping) and all(isinstance(value, PLAIN) for value in made_with.values())
        rate = made_with.get("lr", 1.0) if is_plain else None
        _require(isinstance(rate, int | float) and 0 < rate < float("inf"), "optimizer_defaults", made_with)
    for generators in checkpoint["rng"]:
        state = generators["cpu"]
        _require(isinstance(state, Tensor) and state.shape == torch.get_rng_state().shape, "rng", state)


def _require_sound_optimizer(optimizer: Optimizer, defaults: Mapping[str, Any], is_scheduled: bool) -> None:
    """Of the kinds that its own settings have, downhill, and as wide as the weights."""
    for group in optimizer.param_groups:
        _require_like(defaults, group, "optimizer_states.param_groups")
        _require(group.get("maximize", False) is False, "optimizer_states.param_groups.maximize", group.get("maximize"))
        for name in ("lr", "initial_lr"):  # a schedule may end at 0
            rate = float(group.get(name, 1.0))
            _require(rate > 0 or (is_scheduled and rate == 0), f"optimizer_states.param_groups.{name}", rate)
    for parameter, state in optimizer.state.items():
        _require(isinstance(state, Mapping), "optimizer_states.state", state)
        for name, value in state.items():
            if isinstance(value, Tensor):
                fits = is_finite(value) and (name not in _AS_A_WEIGHT or value.shape in ((), parameter.shape))
                _require(fits, f"optimizer_states.state.{name}", value)


def _require_sound_scheduler(scheduler: Any, names: Set[str]) -> None:
    """Downhill, and with its own methods: whatever a checkpoint has is put in place of anything."""
    replaced = [name for name in vars(scheduler).keys() - names if hasattr(type(scheduler), name)]
    _require(not replaced, "lr_schedulers", replaced)
    rates = getattr(scheduler, "base_lrs", [])
    are_rates = isinstance(rates, list) and all(isinstance(rate, int | float | Tensor) and rate > 0 for rate in rates)
    _require(are_rates, "lr_schedulers.base_lrs", rates)
    for name in ("last_epoch", "_step_count"):
        count = getattr(scheduler, name, 0)
        _require(type(count) is int, f"lr_schedulers.{name}", count)


def _require_like(expected: Any, found: Any, place: str) -> None:
    """Of the same keys and kinds, and numbers of at least 0 where what is expected is no less."""
    if isinstance(expected, Mapping):
        _require(isinstance(found, Mapping) and expected.keys() <= found.keys(), place, found)
        for key, value in expected.items():
            _require_like(value, found[key], f"{place}.{key}")
    elif isinstance(expected, tuple):
        _require(isinstance(found, tuple | list) and len(found) == len(expected), place, found)
        for value, other in zip(expected, found, strict=True):
            _require_like(value, other, place)
    elif isinstance(expected, int | float):
        _require(isinstance(found, int | float | Tensor) and bool(found >= 0 or expected < 0), place, found)


def _require(holds: bool, place: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{place} cannot be {found!r:.60}")
