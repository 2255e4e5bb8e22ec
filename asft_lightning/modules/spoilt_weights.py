"""Trained weights that are no numbers: nothing of them is kept."""

from collections.abc import Iterable

from torch import Tensor

from asft_lightning.errors import TrainingError
from asft_lightning.runtime.reading import is_finite
from asft_lightning.runtime.sharding import own_part


def first_spoilt(weights: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first that holds NaN or Inf, of a sharded one on this rank; None where all are finite.

    Args:
        weights: Names and tensors.
    """
    return next((name for name, weight in weights if not is_finite(own_part(weight))), None)


def spoilt_weights(step: int, name: str | None) -> TrainingError:
    """The error to raise.

    Args:
        step: Optimizer steps that have been taken.
        name: Of the weight; None where it is another rank's.
    """
    what = "those of another rank are not" if name is None else f"{name} is not"
    return TrainingError(
        f"trained weights must be finite, and after step {step} {what}: a gradient or the learning rate was not, or was too "
        "large. No adapter or checkpoint was written of them. Lower the learning rate or set trainer.gradient_clip_val, "
        "then go on from the last checkpoint."
    )
