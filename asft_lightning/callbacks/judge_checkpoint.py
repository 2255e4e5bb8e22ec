"""JudgeCheckpoint: the judge that was trained, as a checkpoint of Transformers."""

from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.errors import ConfigurationError
from asft_lightning.modules import JudgeTrainer
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import whole_folder


class JudgeCheckpoint(Callback):
    """Write the judge to ``judge/`` in the run's folder at the end, for ``ClassifierJudge(folder)`` and for Transformers.

    An adapter is merged in. The folder is replaced whole or not at all.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What cannot be written shows before anything is trained."""
        _judge(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write beside and rename into place, on rank 0.

        Raises:
            StorageError: If that cannot be; an earlier judge is then as it was.
            ConfigurationError: If the weights are not finite, likewise.
        """
        if trainer.is_global_zero:
            with whole_folder(RunFolder.of(trainer).judge, replace=True) as new:
                _judge(pl_module).save_judge(new)


def _judge(module: LightningModule) -> JudgeTrainer:
    if not isinstance(module, JudgeTrainer):
        raise ConfigurationError(
            f"JudgeCheckpoint writes what a JudgeTrainer trained, got {type(module).__name__}. Take AdapterCheckpoint."
        )
    return module
