"""Eq. 3 of the paper, at fewer directions than full rank."""

from dataclasses import dataclass
from typing import ClassVar

from asft_lightning.anchors.anchor import Anchor, WeightPair
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.functional import subspace_map
from asft_lightning.weights.targets import Target


@dataclass(frozen=True)
class Subspace(Anchor):
    """C = V(VᵀV)⁻¹Vᵀ (arXiv 2506.08473, Eq. 3) restricted to the top left singular directions of V.

    Give exactly one of ``num_directions`` and ``explained_variance``.

    Args:
        weight: Factor in a sum of anchors.
        num_directions: How many directions to leave free.
        explained_variance: Leave free the fewest directions with this share of ‖V‖²_F.
    """

    num_directions: int | None = None
    explained_variance: float | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"aligned", "base"})

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """The projector on the kept directions of V."""
        return ModuleAnchor.of_map(subspace_map(weights.direction(target), self.num_directions, self.explained_variance))
