"""Lightning's callbacks that would not do here what they are for, and would not say so."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint, StochasticWeightAveraging, WeightAveraging

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.trainer_callbacks import callbacks_of


def require_fit_callbacks(trainer: Trainer) -> None:
    """Refuse them in a fit.

    Averages are begun before there is a model, or written after the adapter is, and no budget holds an average of factors.
    ``OnExceptionCheckpoint`` has the next fit go on from its file, also where none was asked for.

    Raises:
        ConfigurationError: If one is there.
    """
    for callback in callbacks_of(trainer, (StochasticWeightAveraging, WeightAveraging)):
        raise ConfigurationError(
            f"a fit must write the weights that it trains, and {type(callback).__name__} would average others. Leave it "
            "out; lr_scheduler: linear lets the rate fall."
        )
    if callbacks_of(trainer, OnExceptionCheckpoint):
        raise ConfigurationError(
            "a fit must begin anew unless ckpt_path is given, and with OnExceptionCheckpoint it goes on by itself. Leave it "
            "out for --config trainer/resumable, which saves on exceptions."
        )
