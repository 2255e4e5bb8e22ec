"""Safe LoRA (arXiv 2405.16833): the least aligned layers of a finished adapter, mapped by C."""

from collections.abc import Sequence
from dataclasses import dataclass

from asft_lightning.anchors import WeightPair
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import gram_applied
from asft_lightning.projections.projection import Layer, ProjectedLayer, Projection


@dataclass(frozen=True)
class SafeLoRA(Projection):
    """B becomes C·B, C = VVᵀ/‖V‖_F, in layers where the cosine between C·BA and BA is low; A stays.

    As the authors' code. C is no projector: where ‖V‖_F is small so are its eigenvalues, and C·BA is little more than
    nothing; ``kept`` says how much. Every layer's cosine is taken of the adapter as it was trained, before any is changed.
    C·B is computed from V itself, in float64: the eigenpairs that ``Gram`` may drop matter here, where C·B is small.

    Give exactly one of the two.

    Args:
        threshold: Change the layers with a cosine of at most this, 0..1; 0.5 in the authors' code.
        num_layers: Change this many layers, of the lowest cosine; 10 in the authors' code. Of layers with the same cosine
            the first are taken, where theirs, which rounds to five digits, takes all.

    Raises:
        ConfigurationError: If not exactly one is given, or it is out of its range.
    """

    threshold: float | None = None
    num_layers: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if (self.threshold is None) == (self.num_layers is None):
            raise ConfigurationError(
                "SafeLoRA needs exactly one of threshold and num_layers, got "
                f"threshold={self.threshold}, num_layers={self.num_layers}. Leave the other one null."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigurationError(
                f"SafeLoRA needs 0 ≤ threshold ≤ 1, got {self.threshold}. It is a cosine; the authors' is 0.5."
            )
        if self.num_layers is not None and self.num_layers < 1:
            raise ConfigurationError(f"SafeLoRA needs num_layers of 1 or more, got {self.num_layers}. The authors take 10.")

    @property
    def needs(self) -> frozenset[str]:
        """Both: V is their difference."""
        return frozenset({"aligned", "base"})

    def project(self, layers: Sequence[Layer], weights: WeightPair) -> list[ProjectedLayer]:
        """Rank all layers, then change the chosen ones."""
        if self.num_layers is not None and self.num_layers > len(layers):
            raise ConfigurationError(
                f"SafeLoRA needs num_layers of at most the adapter's {len(layers)} layers, got {self.num_layers}. Lower it, "
                "or give a threshold."
            )
        mapped = [gram_applied(weights.direction(layer.target), layer.b) for layer in layers]
        projected = [ProjectedLayer.of(layer, b) for layer, b in zip(layers, mapped, strict=True)]
        chosen = self._chosen([layer.cosine for layer in projected])
        return [
            new if i in chosen else new.unchanged(layer)
            for i, (layer, new) in enumerate(zip(layers, projected, strict=True))
        ]

    def _chosen(self, cosines: Sequence[float]) -> set[int]:
        if self.threshold is not None:
            return {i for i, cosine in enumerate(cosines) if cosine <= self.threshold}
        return set(sorted(range(len(cosines)), key=lambda i: cosines[i])[: self.num_layers])
