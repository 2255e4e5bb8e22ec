"""The interface of a repair: from the factors of a finished adapter to new ones."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from torch import Tensor

from asft_lightning.anchors import WeightPair
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import LowRank, update_cosine, update_product
from asft_lightning.runtime.tables import as_text
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.targets import Target


@dataclass(frozen=True)
class Layer:
    """One layer's update B·A, without LoRA's α/r.

    Args:
        target: The weight that it changes.
        a: A (r, d_in).
        b: B (d_out, r).
        scaling: α/r, by which PEFT multiplies B·A.
    """

    target: Target
    a: Tensor
    b: Tensor
    scaling: float = 1.0


@dataclass(frozen=True)
class ProjectedLayer:
    """What became of one layer.

    Args:
        name: Its module.
        a: The A to use from now on (r, d_in), in float64.
        b: The B to use from now on (d_out, r), in float64.
        changed: Whether they are others.
        cosine: Between the update and what the projection makes, or would make, of it.
        size: ‖BA‖_F as it was.
        kept: ‖B'A'‖_F / ‖BA‖_F; 1 where nothing changed.
        error: By how much B'A' misses what was meant, for a larger rank was: a share of that, 0..1.
    """

    name: str
    a: Tensor
    b: Tensor
    changed: bool
    cosine: float
    size: float
    kept: float
    error: float = 0.0

    @classmethod
    def of(cls, layer: Layer, new_b: Tensor, changed: bool = True) -> Self:
        """The layer with ``new_b``, if it is to be changed, and the figures of that; A stays."""
        return cls.of_factors(layer, LowRank(layer.a.double(), new_b, 0.0), changed)

    @classmethod
    def of_factors(cls, layer: Layer, new: LowRank, changed: bool = True, cosine: float | None = None) -> Self:
        """The layer with new factors, if it is to be changed; ``cosine`` is another one than between old and new."""
        old, factors = (layer.a, layer.b), (new.a, new.b)
        size = update_product(old, old) ** 0.5
        kept = update_product(factors, factors) ** 0.5 / size if changed and size else 1.0
        told = update_cosine(old, factors) if cosine is None else cosine
        a, b = factors if changed else (layer.a.double(), layer.b.double())
        return cls(layer.target.name, a, b, changed, told, size, kept, new.error if changed else 0.0)

    def unchanged(self, layer: Layer) -> Self:
        """The layer as it was, with this one's cosine."""
        return replace(self, a=layer.a.double(), b=layer.b.double(), changed=False, kept=1.0, error=0.0)

    def figures(self) -> dict[str, Any]:
        """All but the tensors, as plain data."""
        figures = {"changed": self.changed, "cosine": self.cosine, "size": self.size, "kept": self.kept}
        return figures | ({"error": self.error} if self.error else {})


@dataclass(frozen=True)
class Projection(ABC):
    """A way to take a finished update back to the alignment direction."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Which of the checkpoints ``aligned`` and ``base`` it reads."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Further adapters that it reads."""
        return ()

    @abstractmethod
    def project(self, layers: Sequence[Layer], weights: WeightPair) -> list[ProjectedLayer]:
        """New factors for an adapter's layers, in their order.

        Raises:
            AnchorError: If a layer's anchor cannot be built.
            ConfigurationError: If the settings do not fit the adapter.
        """

    def settings(self) -> dict[str, Any]:
        """Its class name and arguments as plain data, as recorded in files."""
        return {"class": type(self).__name__, **asdict(self)}

    def open(self, pretrained: Pretrained) -> WeightPair:
        """The checkpoints and adapters that it reads, and no other.

        Raises:
            ConfigurationError: If one is not given, or cannot be read.
        """
        if "base" in self.needs and pretrained.base is None:
            raise ConfigurationError(
                f"{type(self).__name__} needs both checkpoints, and `base` is not given. Name it under `pretrained`."
            )
        model = pretrained.load_model_on_meta()
        weights = WeightPair(
            open_weights(pretrained.aligned, pretrained.revision, model) if "aligned" in self.needs else None,
            open_weights(str(pretrained.base), pretrained.base_revision, model) if "base" in self.needs else None,
            model=model,
        )
        for adapter in self.adapters:
            weights.other(adapter)
        return weights


def record(method: Projection, layers: Sequence[ProjectedLayer]) -> dict[str, Any]:
    """What was done, as plain data: the content of a run's ``projection.json``."""
    return {"method": method.settings(), "layers": {layer.name: layer.figures() for layer in layers}}


def projection_table(layers: Sequence[ProjectedLayer]) -> str:
    """A line of plain text for each layer, and how many were changed."""
    rows = [
        [layer.name, f"{layer.cosine:.3f}", f"{layer.size:.4f}", f"{layer.kept:.1%}" if layer.changed else "–"]
        for layer in layers
    ]
    changed = sum(layer.changed for layer in layers)
    remark = f"{changed} of {len(layers)} layers changed; kept: ‖B'A'‖ / ‖BA‖."
    if worst := max((layer.error for layer in layers), default=0.0):
        remark += f" At the adapter's rank they miss what was meant by up to {worst:.1%}."
    return f"{as_text(['module', 'cosine', '‖BA‖_F', 'kept'], rows)}\n{remark}"
