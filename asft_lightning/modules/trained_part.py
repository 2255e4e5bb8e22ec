"""TrainedPart: a LightningModule of which a part is trained: that is what it keeps, and keeps finite."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from asft_lightning.modules.spoilt_weights import first_spoilt, spoilt_weights
from asft_lightning.runtime.checkpoint_io import require_same_weights
from asft_lightning.runtime.precision import keep_float32
from asft_lightning.runtime.ranks import on_any_rank


class TrainedPart(LightningModule):
    """A checkpoint holds what was trained, in float32 or wider, and finite; what is frozen is under ``model``."""

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning's; but a number stays on the host, where Lightning would take it to the device and wait for that."""
        if isinstance(value, int | float) and not kwargs.get("sync_dist"):
            value = torch.tensor(value, dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
        super().log(name, value, *args, **kwargs)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Hook: what the optimizer gets."""
        return [p for p in self.parameters() if p.requires_grad]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What was trained, and not the frozen model: of LoRA a checkpoint of megabytes."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        trained = {prefix + name for name, parameter in self.named_parameters() if parameter.requires_grad}
        # By what is trained, not by what is frozen: 4-bit weights have entries beside their parameters.
        return {name: value for name, value in state.items() if name in trained or not name.startswith(f"{prefix}model.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what was trained; the frozen model is where it came from.

        Raises:
            ConfigurationError: If ``strict`` and the checkpoint is of another adapter.
        """
        if strict:
            require_same_weights(self.state_dict(), state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def on_train_epoch_end(self) -> None:
        """What the last step made of the weights, no loss would show."""
        self.require_finite_weights()

    def require_finite_weights(self) -> None:
        """End all ranks where what one has trained is no longer finite.

        Raises:
            TrainingError: If so.
        """
        spoilt = first_spoilt((name, p) for name, p in self.named_parameters() if p.requires_grad)
        if on_any_rank(self._trainer, spoilt is not None):
            raise spoilt_weights(self.global_step, spoilt)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing that is not finite is kept.

        Raises:
            TrainingError: If the weights are not, or what the optimizer keeps of them; an earlier checkpoint stays.
        """
        if spoilt := first_spoilt([*checkpoint["state_dict"].items(), *_moments(checkpoint)]):
            raise spoilt_weights(self.global_step, spoilt)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What is trained stays at float32 or wider under every precision plugin; the frozen model follows it."""
        trained, exact = {id(parameter) for parameter in self.trainable_parameters()}, keep_float32(fn)
        module: Self = super()._apply(lambda t: exact(t) if id(t) in trained else fn(t), recurse)  # type: ignore[no-untyped-call]
        return module


def _moments(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """What optimizers keep: a gradient that is too large spoils that alone, and nothing would go on from it."""
    for optimizer in checkpoint.get("optimizer_states", []):
        for of_weight in optimizer["state"].values():
            yield from ((name, value) for name, value in of_weight.items() if isinstance(value, Tensor))
