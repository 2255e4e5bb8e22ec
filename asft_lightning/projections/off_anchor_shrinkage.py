"""OffAnchorShrinkage: what one step of the penalty alone, taken to its end, makes of a finished adapter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch

from asft_lightning.anchors import Anchor, Gram, WeightPair, naming
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import shrunk
from asft_lightning.projections.projection import Layer, ProjectedLayer, Projection


@dataclass(frozen=True)
class OffAnchorShrinkage(Projection):
    """ΔW becomes (I + λM)⁻¹ΔW, which minimises ‖X − ΔW‖²_F + λ·penalty(X) over every update X.

    The proximal map of AsFT's penalty, in closed form, for an adapter that was trained without it: what lies off the anchor
    is divided by 1 + λ, what lies along an eigenvector of C by 1 + λ(1 − c)². It is taken on ΔW, not on B, so that it is
    the same for any factors of the same update; only B changes, and the rank stays. See :func:`shrunk` for the derivation.

    Args:
        strength: λ > 0; 1 halves what lies off the anchor.
        anchor: Whose penalty; one with a form on the output side.

    Raises:
        ConfigurationError: If ``strength`` is not positive and finite.
    """

    strength: float = 1.0
    anchor: Anchor = field(default_factory=Gram)

    def __post_init__(self) -> None:
        """Refuse a strength that would change nothing, turn the map round, or divide by infinity."""
        if not 0 < self.strength < inf:
            raise ConfigurationError(
                f"OffAnchorShrinkage needs a finite strength above 0, got {self.strength}. 1 halves what is off the anchor."
            )

    @property
    def needs(self) -> frozenset[str]:
        """Those of its anchor."""
        return self.anchor.needs

    def settings(self) -> dict[str, Any]:
        """With the anchor's own."""
        return {"class": type(self).__name__, "strength": self.strength, "anchor": self.anchor.settings()}

    def project(self, layers: Sequence[Layer], weights: WeightPair) -> list[ProjectedLayer]:
        """Shrink every layer."""
        return [self._shrunk(layer, weights) for layer in layers]

    def _shrunk(self, layer: Layer, weights: WeightPair) -> ProjectedLayer:
        with naming(layer.target):
            built = self.anchor.build(layer.target, weights)
        if built.inp is not None:
            raise ConfigurationError(
                "OffAnchorShrinkage has a closed form for anchors on the output side alone, and "
                f"{type(self.anchor).__name__} has one on the input side. Use Gram, Subspace, Shrinkage or Harmful."
            )
        out = None if built.out is None else built.out.to(torch.float64)
        return ProjectedLayer.of(layer, shrunk(layer.b.double(), out, self.strength * self.anchor.weight))
