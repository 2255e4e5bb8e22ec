"""The learning rate by name: one that falls to 0 over the steps of the run."""

from typing import Any, Literal, get_args

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from asft_lightning.errors import ConfigurationError

Decay = Literal["linear", "cosine"]
"""The curve of the fall, as Transformers' schedulers of these names."""


def require_known_decay(lr_scheduler: Any) -> None:
    """Refuse a name that is none before anything is loaded.

    Raises:
        ConfigurationError: If it is text, and no :data:`Decay`.
    """
    if isinstance(lr_scheduler, str) and lr_scheduler not in get_args(Decay):
        raise ConfigurationError(
            f"lr_scheduler must be one of {', '.join(get_args(Decay))}, a scheduler's class_path, or null for a constant "
            f"rate, got {lr_scheduler!r}."
        )


def decaying(optimizer: Optimizer, decay: Decay, trainer: Trainer) -> LRScheduler:
    """The scheduler over all optimizer steps that the trainer will take.

    Raises:
        ConfigurationError: If the run has no end.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ConfigurationError(
            f"lr_scheduler {decay!r} falls to 0 at the run's last step, and this run has none. Set trainer.max_steps or "
            "trainer.max_epochs, or leave lr_scheduler out."
        )
    scheduler: LRScheduler = get_scheduler(decay, optimizer, num_warmup_steps=0, num_training_steps=int(steps))
    return scheduler
