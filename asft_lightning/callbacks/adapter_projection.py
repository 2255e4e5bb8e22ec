"""AdapterProjection: the trained adapter is taken back to the alignment direction before it is scored and written."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from asft_lightning.anchors import WeightPair
from asft_lightning.callbacks.protocols import adapted_module, chat_module, pretrained_of
from asft_lightning.projections import Projection, project_model, record
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import updated
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.trainer_callbacks import callbacks_of

_log = logging.getLogger(__name__)


class AdapterProjection(Callback):
    """Project the adapter when training ends, before any callback scores it or writes it; training is as without.

    ``projection.json`` in the run's folder tells each layer's cosine and what was kept of its update. A checkpoint of
    Lightning's holds the adapter as it was trained.

    Args:
        method: How, e.g. :class:`SafeLoRA`.

    Raises:
        ConfigurationError: Before training, if a checkpoint that the method needs is not given or cannot be read.
    """

    def __init__(self, method: Projection) -> None:
        self.method = method
        self._weights: WeightPair | None = None
        self._trained: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the checkpoints, so that a mistake shows before training, and stand before all other callbacks."""
        if stage != "fit":
            return
        self._weights = self.method.open(pretrained_of(self, pl_module))
        callbacks = callbacks_of(trainer, Callback)
        first = sorted(callbacks, key=lambda callback: not isinstance(callback, AdapterProjection))
        # A new list, for Lightning is going through the old one.
        trainer.callbacks = first  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What cannot be projected shows before anything is trained."""
        adapted_module(self, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Project, on every rank alike, and say what was done."""
        assert self._weights is not None
        self._trained = {name: weight.clone() for name, weight in trainer.strategy.lightning_module_state_dict().items()}
        projected = project_model(chat_module(self, pl_module, "model").model, self.method, self._weights)
        folder = RunFolder.of(trainer)
        if trainer.is_global_zero:
            write_json(folder.projection, record(self.method, projected))
            if folder.summary.is_file():
                with updated(folder) as summary:
                    summary.run.projection = self.method.settings()
        changed = sum(layer.changed for layer in projected)
        _log.info("%s changed %d of %d layers", type(self.method).__name__, changed, len(projected))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Also where a run is ended while what was projected is scored or written: going on, it projects again."""
        checkpoint["state_dict"].update(self._trained)
