"""SafeMERGE (arXiv 2503.17239): the least aligned layers of a finished adapter, mixed with a safe adapter's."""

from collections.abc import Sequence
from dataclasses import dataclass

from asft_lightning.anchors import WeightPair
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import gram_applied, low_rank_sum, update_cosine
from asft_lightning.projections.projection import Layer, ProjectedLayer, Projection
from asft_lightning.weights.adapter_factors import load_config, read_factors, update_scaling


@dataclass(frozen=True)
class SafeMERGE(Projection):
    """ΔW becomes (1 − s)·ΔW + s·ΔW_safe where the cosine between C·BA and BA is below ``threshold``, C = VVᵀ/‖V‖_F.

    As the paper: the criterion is Safe LoRA's, the updates are mixed with their own α/r, and 0.35 and 0.2 are its settings.
    The mix has the rank of both together; it is written at the adapter's own, by the closest factors, and ``error`` says how
    far off. What differs: the authors' code mixes the factors A and B one by one, which adds cross terms of B and A_safe.

    Args:
        adapter: The safe adapter in PEFT's format: a folder or a hub id, tuned on refusals with the same target modules.
        threshold: Of the cosine, 0..1.
        share: s of the safe adapter, above 0 and up to 1.

    Raises:
        ConfigurationError: If no adapter is named, or a number is out of its range.
    """

    adapter: str = ""
    threshold: float = 0.35
    share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if not self.adapter:
            raise ConfigurationError(
                "SafeMERGE needs `adapter`, the folder or hub id of a LoRA adapter tuned on refusals, got none. "
                "docs/baselines.md says how to make one."
            )
        if not (0 <= self.threshold <= 1 and 0 < self.share <= 1):
            raise ConfigurationError(
                "SafeMERGE needs 0 ≤ threshold ≤ 1 and 0 < share ≤ 1, got "
                f"{self.threshold} and {self.share}. The authors' are 0.35 and 0.2."
            )

    @property
    def needs(self) -> frozenset[str]:
        """Both: V is their difference."""
        return frozenset({"aligned", "base"})

    @property
    def adapters(self) -> tuple[str, ...]:
        """The safe one."""
        return (self.adapter,)

    def project(self, layers: Sequence[Layer], weights: WeightPair) -> list[ProjectedLayer]:
        """Mix the layers below the threshold."""
        safe, config = weights.other(self.adapter), load_config(self.adapter)
        found = []
        for layer in layers:
            mapped = gram_applied(weights.direction(layer.target), layer.b)
            cosine = update_cosine((layer.a, layer.b), (layer.a, mapped))
            a, b = read_factors(safe, layer.target)
            weight = self.share * update_scaling(config, layer.target.name, len(a)) / layer.scaling
            mix = low_rank_sum([(1 - self.share, layer.a, layer.b), (weight, a, b)], len(layer.a))
            found.append(ProjectedLayer.of_factors(layer, mix, cosine < self.threshold, cosine))
        return found
