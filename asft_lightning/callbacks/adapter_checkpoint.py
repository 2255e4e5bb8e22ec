"""AdapterCheckpoint: the trained adapter in PEFT's own format."""

from lightning.pytorch import Callback, LightningModule, Trainer

from asft_lightning.callbacks.protocols import chat_module
from asft_lightning.modules.spoilt_weights import first_spoilt, spoilt_weights
from asft_lightning.runs.folder import RunFolder, is_rehearsal
from asft_lightning.runtime.files import user_path, whole_folder
from asft_lightning.runtime.sharding import put_together, sharded_over


class AdapterCheckpoint(Callback):
    """Write the adapter, and the tokenizer it was trained with, to ``adapter/`` in the run's folder at the end.

    It loads with ``PeftModel.from_pretrained(model, folder)``. The folder is replaced whole or not at all.

    Args:
        folder: Where to, relative to the run's folder.
    """

    def __init__(self, folder: str = "adapter") -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What cannot be written shows before anything is trained."""
        chat_module(self, pl_module, "model", "tokenizer")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write beside and rename into place, on rank 0.

        Raises:
            StorageError: If that cannot be; an earlier adapter is then as it was.
            TrainingError: If the adapter is not finite, likewise.
        """
        module = chat_module(self, pl_module, "model", "tokenizer")
        trained = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
        is_sharded = sharded_over(module.model) is not None  # each rank has a part
        state = put_together(trained) if is_sharded else None  # the model's own
        if spoilt := first_spoilt((trained if state is None else state).items()):
            raise spoilt_weights(trainer.global_step, spoilt)
        if not trainer.is_global_zero:
            return
        folder = user_path(self.folder)
        # A rehearsal stays in its own folder, whatever is named.
        target = RunFolder.of(trainer).path / (folder.name if is_rehearsal(trainer) else folder)
        with whole_folder(target, replace=True) as new:
            module.model.save_pretrained(new, state_dict=state)
            module.tokenizer.save_pretrained(new)
