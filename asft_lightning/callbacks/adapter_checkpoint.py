"""AdapterCheckpoint: what was trained, in PEFT's own format; or in Transformers', where that is a whole model."""

from copy import deepcopy
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from peft import PeftModel

from asft_lightning.callbacks.protocols import ChatModule, chat_module
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import end_ids
from asft_lightning.modules.spoilt_weights import first_spoilt, spoilt_weights
from asft_lightning.runs.folder import RunFolder, is_rehearsal
from asft_lightning.runtime.files import user_path, whole_folder
from asft_lightning.runtime.sharding import put_together, sharded_over


class AdapterCheckpoint(Callback):
    """Write the adapter, and the tokenizer it was trained with, to ``adapter/`` in the run's folder at the end.

    It loads with ``PeftModel.from_pretrained(model, folder)``. Of a model without an adapter, whose own weights were
    trained, the whole is written, to ``model/``, and loads with ``AutoModelForCausalLM.from_pretrained(folder)``: all of its
    weights, in the dtype they were trained in. The folder is replaced whole or not at all.

    Args:
        folder: Where to, relative to the run's folder; null for ``adapter`` or ``model``. It is replaced, so what is there
            must be what an earlier run wrote.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What cannot be written shows before anything is trained.

        Raises:
            ConfigurationError: If the folder holds anything but what an earlier run wrote there.
        """
        module = self._module(pl_module)
        if self.folder is not None:
            is_adapter = isinstance(module.model, PeftModel)
            _require_replaceable(self._target(trainer, is_adapter), RunFolder.of(trainer), is_adapter, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write beside and rename into place, on rank 0.

        Raises:
            StorageError: If that cannot be; what an earlier run wrote is then as it was.
            TrainingError: If what was trained is not finite, likewise.
        """
        module = self._module(pl_module)
        is_adapter = isinstance(module.model, PeftModel)
        trained = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
        is_sharded = sharded_over(module.model) is not None  # each rank has a part
        state = put_together(trained if is_adapter else module.model.state_dict()) if is_sharded else None  # the model's own
        if spoilt := first_spoilt((trained if state is None else state).items()):
            raise spoilt_weights(trainer.global_step, spoilt)
        if not trainer.is_global_zero:
            return
        with whole_folder(self._target(trainer, is_adapter), replace=True) as new:
            module.model.save_pretrained(new, state_dict=state)
            module.tokenizer.save_pretrained(new)
            if not is_adapter:
                _save_ends(module, new)

    def _target(self, trainer: Trainer, is_adapter: bool) -> Path:
        own = RunFolder.of(trainer)
        if self.folder is None:
            return own.adapter if is_adapter else own.model
        folder = user_path(self.folder)
        # A rehearsal stays in its own folder, whatever is named.
        return own.path / (folder.name if is_rehearsal(trainer) else folder)

    def _module(self, pl_module: LightningModule) -> ChatModule:
        module = chat_module(self, pl_module, "model", "tokenizer")
        return module if isinstance(module.model, PeftModel) else chat_module(self, pl_module)


def _require_replaceable(target: Path, run: RunFolder, is_adapter: bool, module: LightningModule) -> None:
    place, pretrained = target.resolve(), getattr(module, "pretrained", None)
    taken = {path.resolve() for path in run.products()} - {run.adapter.resolve(), run.model.resolve()}
    read = [getattr(pretrained, side, None) for side in ("aligned", "base")]  # what the run itself begins from
    mark = target / ("adapter_config.json" if is_adapter else "config.json")
    is_earlier = target.is_dir() and (mark.is_file() or not any(target.iterdir()))
    is_ours = place not in taken and place not in [Path(path).resolve() for path in read if path]
    if place in (run.path.resolve(), *run.path.resolve().parents) or not is_ours or (target.exists() and not is_earlier):
        raise ConfigurationError(
            f"AdapterCheckpoint replaces its folder whole, and {target} is more than an earlier run's. Name another one, or "
            "leave folder out."
        )


def _save_ends(module: ChatModule, folder: Path) -> None:
    """Whoever serves the model stops where its rows ended."""
    config = deepcopy(module.model.generation_config)
    config.eos_token_id = end_ids(module.model, module.tokenizer, [module.template.end(module.tokenizer).token_id])
    config.save_pretrained(folder)
