"""AdapterCheckpoint: the trained adapter in PEFT's own format."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.callbacks.chat_module import ChatModule
from asft_lightning.files import writing
from asft_lightning.sharding import whole_state


class AdapterCheckpoint(Callback):
    """Write the adapter, and the tokenizer it was trained with, to ``adapter/`` in the run's folder at the end.

    It loads with ``PeftModel.from_pretrained(model, folder)``. The folder is replaced whole or not at all.

    Args:
        folder: Where to, relative to the run's folder.
    """

    def __init__(self, folder: str = "adapter") -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write beside and rename into place, on rank 0.

        Raises:
            StorageError: If that cannot be; an earlier adapter is then as it was.
        """
        module = cast(ChatModule, pl_module)
        state = whole_state(module.model)  # on every rank: each has a part of it
        if not trainer.is_global_zero:
            return
        target = Path(trainer.default_root_dir) / self.folder
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
                self._replace(target, Path(temporary), module, {} if state is None else {"state_dict": state})

    def _replace(self, target: Path, temporary: Path, module: ChatModule, state: dict[str, Any]) -> None:
        new, old = temporary / "new", temporary / "old"
        module.model.save_pretrained(new, **state)
        module.tokenizer.save_pretrained(new)
        if target.exists():
            target.rename(old)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)
