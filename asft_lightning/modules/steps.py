"""A fit takes a step at least: one that trains nothing would pass for one that was trained and kept safe."""

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from asft_lightning.errors import ConfigurationError

_LIMITS = ("max_steps", "max_epochs", "limit_train_batches")


def require_steps(trainer: Trainer) -> None:
    """Refuse a fit without a step.

    Args:
        trainer: Of any stage; others than a fit are left alone.

    Raises:
        ConfigurationError: If a limit of it is 0.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    for name in _LIMITS:
        if getattr(trainer, name) == 0:
            raise ConfigurationError(
                f"a fit must take a step at least, got trainer.{name} 0. Leave it out, or score the model as it is with "
                "asft-lightning test."
            )
