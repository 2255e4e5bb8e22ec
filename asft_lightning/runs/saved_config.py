"""SavedConfig: the whole configuration of a run in the run's folder, whatever its loggers."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import write_atomically


class SavedConfig(SaveConfigCallback):
    """Lightning's own writes where the first logger does, which may be a new folder each time.

    The config of ``validate`` and ``test`` goes into a folder of that name: the fit's stays.

    Args:
        parser: The parser of the command line.
        config: What it made of the arguments.
        settings: Lightning's own, but for where to.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, **settings: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **settings)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it; on rank 0 alone, and once.

        Raises:
            StorageError: If it cannot be.
        """
        run = RunFolder.of(trainer)
        folder = run if stage == "fit" else RunFolder(run.path / TrainerFn(stage).value)
        write_atomically(folder.config, self.parser.dump(self.config, skip_none=False))
