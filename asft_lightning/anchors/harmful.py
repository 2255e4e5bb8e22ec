"""AsFT-Alt: the direction of a harmful fine-tuning, for when there is no base model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from asft_lightning.anchors.anchor import Anchor, WeightPair
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.errors import AnchorError
from asft_lightning.functional import harmful_map
from asft_lightning.weights.adapter_factors import read_factors
from asft_lightning.weights.hashing import content_hash
from asft_lightning.weights.targets import Target


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
    needs: ClassVar[frozenset[str]] = frozenset({"aligned"})  # recorded, so that a file is not used on another model

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """The top left singular vectors of the adapter's B·A."""
        return ModuleAnchor.of_map(harmful_map(*self._factors(target, weights), self.num_directions))

    def fingerprint(self, targets: Sequence[Target], weights: WeightPair) -> str:
        """Of the adapter's factors."""
        factors = ((target.name, factor) for target in targets for factor in self._factors(target, weights))
        return content_hash(factors)

    def _factors(self, target: Target, weights: WeightPair) -> tuple[Tensor, Tensor]:
        if not self.adapter:
            raise AnchorError("Harmful needs `adapter`, the folder or hub id of a LoRA adapter tuned on harmful rows.")
        return read_factors(weights.other(self.adapter), target)
