"""WholeCheckpointIO: a run's checkpoints, each written whole or not at all, and read without executing anything."""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_warn

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import write_atomically
from asft_lightning.runtime.reading import is_finite, readable, require_unpacked


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's own, but for how a local file is written.

    Lightning writes in the system's temporary folder and moves the file from there. Between two disks that is a copy, which
    leaves half a file in place of the checkpoint before where the disk is full or the run is killed.

    And Lightning removes, with all that is in it, whatever a checkpoint says was the saver's last one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folders: set[str] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside, sync, and rename into place.

        Raises:
            StorageError: If the disk is full or must not be written to.
        """
        self._folders.add(_folder_of(path))
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file of a folder that was saved to since this process began; nothing else."""
        is_remote = "://" in str(path)
        if not (is_remote or os.path.lexists(path)):
            return  # with a run that was set aside, say
        is_file = str(path).endswith(".ckpt") if is_remote else os.path.isfile(path)
        if not is_file or _folder_of(path) not in self._folders:
            rank_zero_warn(f"{path} is left as it is: this run has saved no checkpoint beside it.")
        elif is_remote:
            super().remove_checkpoint(path)
        else:
            os.unlink(path)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data, whatever ``weights_only`` says.

        Raises:
            ConfigurationError: If it is damaged, packed, no checkpoint of Lightning, or its weights are not finite.
        """
        require_unpacked(path)
        checkpoint = readable(
            Path(path), lambda: TorchCheckpointIO.load_checkpoint(self, path, map_location, True), "a checkpoint"
        )
        if not isinstance(checkpoint, dict) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
            raise ConfigurationError(
                f"{path} must be a checkpoint of a run, and is something else ({type(checkpoint).__name__}). Give a .ckpt "
                "of its checkpoints folder, or leave ckpt_path out to start anew."
            )
        for name, weight in checkpoint["state_dict"].items():
            if isinstance(weight, torch.Tensor) and not is_finite(weight):
                raise ConfigurationError(
                    f"{path}: a checkpoint's weights must be finite, and {name} holds NaN or Inf. Go on from an earlier one."
                )
        return checkpoint


def _folder_of(path: str | Path) -> str:
    """Where a file lies, links followed; of an address what stands before the last slash."""
    text = str(path)
    return text.rpartition("/")[0] if "://" in text else os.path.realpath(os.path.dirname(text))


def keep_checkpoints_whole(strategy: Strategy) -> None:
    """Have a strategy's checkpoints written and read so, unless the user chose a plugin for them.

    One that wraps another (``AsyncCheckpointIO``) says when they are written, not what is trusted.
    So the innermost is looked at.
    """
    plugin: CheckpointIO | None = strategy.checkpoint_io
    wrapper: _WrappingCheckpointIO | None = None
    while isinstance(plugin, _WrappingCheckpointIO):
        wrapper, plugin = plugin, plugin.checkpoint_io
    if type(plugin) is not TorchCheckpointIO:
        return
    if wrapper is None:
        strategy.checkpoint_io = WholeCheckpointIO()
    else:
        wrapper._checkpoint_io = WholeCheckpointIO()


def require_same_weights(trained: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other trained weights.

    Args:
        trained: What the module trains, by name.
        given: What the checkpoint holds.

    Raises:
        ConfigurationError: If the names differ.
    """
    if different := sorted(trained.keys() ^ given.keys()):
        raise ConfigurationError(
            f"a checkpoint must hold exactly the trained weights of this module, and differs in {len(different)} of them, "
            f"e.g. {different[0]}. Resume with the lora and answers settings it was made with, or its targets."
        )
