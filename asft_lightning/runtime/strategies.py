"""FSDP2Strategy: frozen weights, LoRA factors and anchors sharded over all ranks."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import BitsandbytesPrecision, HalfPrecision, Precision, TransformerEnginePrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.constants import default_pg_timeout
from torch.optim import Optimizer

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.sharding import put_together, sharded_like


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's ``ModelParallelStrategy`` with every rank on the data-parallel axis.

    Its own default puts all devices of a node on the tensor-parallel axis, where each would train on the same rows.
    A checkpoint is the file that one device or DDP writes: what is trained of a model is put together and written whole, and
    any strategy and number of ranks goes on from any other's. Of LoRA that is megabytes; of full fine-tuning every rank's
    host holds all of it meanwhile.

    Args:
        process_group_backend: E.g. ``nccl`` or ``gloo``; null for what suits the device.
        timeout: Of the ranks' waiting for each other.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__("auto", 1, process_group_backend=process_group_backend, timeout=timeout)

    def setup_environment(self) -> None:
        """The mesh's size is known when the cluster is."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """By :meth:`load_optimizer_state_dict`, as under any other strategy."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, whole, on every rank."""
        assert self.lightning_module is not None
        return put_together(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's ``state_dict``, whole, on every rank."""
        return put_together(Strategy.optimizer_state(self, optimizer))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """One file, written by the first rank as Lightning writes any: beside, and renamed into place."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Any strategy's file, whole, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each rank keeps its part."""
        assert self.lightning_module is not None
        local_state = self.lightning_module.state_dict()
        parts = {name: sharded_like(value, local_state.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each rank keeps its part of what an optimizer remembers of each parameter."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            keys = [key for group in state["param_groups"] for key in group["params"]]
            parts = {
                key: {name: sharded_like(value, parameter) for name, value in state["state"][key].items()}
                for key, parameter in zip(keys, parameters, strict=True)
                if key in state["state"]
            }
            optimizer.load_state_dict({**state, "state": parts})


def require_known_strategy(strategy: Strategy, load_in_4bit: bool = False) -> None:
    """Refuse strategies that keep factors as flat pieces, or that have a tensor-parallel axis, or that cannot part weights.

    Args:
        strategy: The trainer's.
        load_in_4bit: Whether the frozen weights are packed.

    Raises:
        ConfigurationError: With the strategy to use instead.
    """
    flat = isinstance(strategy, FSDPStrategy | DeepSpeedStrategy)
    if flat or (isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FSDP2Strategy)):
        why = (
            "keeps weights as flat pieces, of which none is a LoRA factor"
            if flat
            else "puts the devices on a tensor-parallel axis"
        )
        raise ConfigurationError(
            f"a sharded run needs asft_lightning.FSDP2Strategy, got {type(strategy).__name__}, which {why}. Set "
            "trainer.strategy to {class_path: asft_lightning.FSDP2Strategy}, as --config trainer/fsdp does."
        )
    if load_in_4bit and isinstance(strategy, FSDP2Strategy):
        raise ConfigurationError(
            "weights that are sharded must not be packed, and pretrained.load_in_4bit packs them into bytes without rows. "
            "Use DDP (--config trainer/ddp), for which they are small enough, or leave load_in_4bit out."
        )


def require_whole_weights(plugin: Precision) -> None:
    """Refuse a precision that turns whole modules to fewer bits, where their own weights are trained.

    Args:
        plugin: The trainer's.

    Raises:
        ConfigurationError: If it does.
    """
    if isinstance(plugin, HalfPrecision | BitsandbytesPrecision | TransformerEnginePrecision):
        raise ConfigurationError(
            "weights that are trained themselves must be float32 or wider, or small steps are lost, and trainer.precision "
            f"{plugin.precision} rounds them. Use bf16-mixed, which computes in bfloat16 and keeps them, or 32-true."
        )
