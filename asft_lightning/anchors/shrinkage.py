"""The ablation: no direction at all."""

from dataclasses import dataclass

from asft_lightning.anchors.anchor import Anchor, WeightPair
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.weights.targets import Target


@dataclass(frozen=True)
class Shrinkage(Anchor):
    """C = 0: the penalty is ‖BA‖²_F. What an anchor adds is what it does better than this one.

    Args:
        weight: Factor in a sum of anchors.
    """

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """The identity on both sides; reads no checkpoint."""
        return ModuleAnchor()
