"""SafetyVector (RESTA, arXiv 2402.11746): the way from the unaligned model to the aligned one, added to an adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from asft_lightning.anchors import WeightPair
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import LowRank, low_rank, low_rank_sum
from asft_lightning.projections.projection import Layer, ProjectedLayer, Projection
from asft_lightning.weights.adapter_factors import load_config, read_factors, update_scaling


@dataclass(frozen=True)
class SafetyVector(Projection):
    """ΔW becomes ΔW + γ·V at the adapter's rank, V = W_aligned − W_unaligned; only the weights that the adapter is on move.

    The unaligned side is ``base``, or the aligned model with a harmful ``adapter``, the paper's way. The sum is written by
    the closest factors of the adapter's rank, and ``error`` says how far off: of a V of full rank a rank of 8 holds little.

    Args:
        strength: γ > 0.
        adapter: An adapter tuned on harmful rows (PEFT's format, a folder or hub id), whose update is then −V; null for
            ``base``.

    Raises:
        ConfigurationError: If γ is not positive and finite.
    """

    strength: float = 0.5
    adapter: str | None = None

    def __post_init__(self) -> None:
        """Refuse a strength that would change nothing, or lead away from the aligned model."""
        if not 0 < self.strength < inf:
            raise ConfigurationError(
                f"SafetyVector needs a finite strength above 0, got {self.strength}. 1 adds the whole way back."
            )

    @property
    def needs(self) -> frozenset[str]:
        """Both where V is their difference; of an adapter's, neither is read."""
        return frozenset() if self.adapter else frozenset({"aligned", "base"})

    @property
    def adapters(self) -> tuple[str, ...]:
        """The harmful one, where it is given."""
        return (self.adapter,) if self.adapter else ()

    def project(self, layers: Sequence[Layer], weights: WeightPair) -> list[ProjectedLayer]:
        """Add it to every layer."""
        return [ProjectedLayer.of_factors(layer, self._added(layer, weights)) for layer in layers]

    def _added(self, layer: Layer, weights: WeightPair) -> LowRank:
        rank, weight = len(layer.a), self.strength / layer.scaling
        if not self.adapter:
            v = weights.direction(layer.target).double()
            return low_rank(layer.b.double() @ layer.a.double() + weight * v, rank)
        a, b = read_factors(weights.other(self.adapter), layer.target)
        scaling = update_scaling(load_config(self.adapter), layer.target.name, len(a))
        return low_rank_sum([(1.0, layer.a, layer.b), (-weight * scaling, a, b)], rank)
