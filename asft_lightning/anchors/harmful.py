"""AsFT-Alt: the direction of a harmful fine-tuning, for when there is no base model."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from asft_lightning.anchors.anchor import Anchor, ModuleAnchor, WeightPair
from asft_lightning.anchors.checkpoints import Weights, open_weights
from asft_lightning.anchors.targets import Target
from asft_lightning.errors import AnchorError
from asft_lightning.functional import harmful_map


@dataclass(frozen=True)
class Harmful(Anchor):
    """Penalise the part of the update that lies in d_harm, a LoRA update tuned on a few harmful rows (AsFT-Alt).

    Args:
        weight: Factor in a sum of anchors.
        adapter: That adapter in PEFT's format: a directory or a hub id.
        num_directions: Top output directions of d_harm to penalise; null for all (its rank).
    """

    adapter: str = ""
    num_directions: int | None = None

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """The top left singular vectors of the adapter's B·A."""
        return ModuleAnchor.of_map(harmful_map(*self._factors(target), self.num_directions))

    @cached_property
    def _weights(self) -> Weights:
        if not self.adapter:
            raise AnchorError("Harmful needs `adapter`, the folder or hub id of a LoRA adapter tuned on harmful rows.")
        return open_weights(self.adapter)

    def _factors(self, target: Target) -> tuple[Tensor, Tensor]:
        def read(factor: str) -> Tensor:
            try:
                tensor = self._weights[f"{target.name}.{factor}.weight"]
            except KeyError:
                raise AnchorError(
                    f"{target.name}: the harmful adapter {self.adapter} must have every trained layer, and lacks its "
                    f"{factor}. Tune it with the same target_modules."
                ) from None
            if not bool(torch.isfinite(tensor).all()):
                raise AnchorError(
                    f"{target.name}: the harmful adapter {self.adapter} must be finite, but its {factor} holds NaN or Inf. "
                    "Tune it again, with a smaller learning rate."
                )
            return tensor

        a, b = read("lora_A"), read("lora_B")
        if (b.shape[0], a.shape[1]) != target.shape:
            raise AnchorError(
                f"{target.name}: the harmful update must have the layer's shape {target.shape}, got "
                f"{(b.shape[0], a.shape[1])}. Tune the adapter on the same model."
            )
        return a, b
