"""The authors' anchor, and the package's default."""

from dataclasses import dataclass
from typing import ClassVar

from asft_lightning.anchors.anchor import Anchor, WeightPair
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.functional import gram_map
from asft_lightning.weights.targets import Target


@dataclass(frozen=True)
class Gram(Anchor):
    """C = VVᵀ/‖V‖_F, as in the authors' code and in Safe LoRA (arXiv 2405.16833).

    Args:
        weight: Factor in a sum of anchors.
        tolerance: Proven bound on the relative error of the penalty that dropping small eigenpairs may cost.
    """

    tolerance: float = 0.01
    needs: ClassVar[frozenset[str]] = frozenset({"aligned", "base"})

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """Eigenvectors of VVᵀ whose eigenvalue matters at this tolerance."""
        return ModuleAnchor.of_map(gram_map(weights.direction(target), self.tolerance))
