"""The interface of a repair: from the factors of a finished adapter to new factors B."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from asft_lightning.anchors import WeightPair
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import update_cosine, update_product
from asft_lightning.runtime.terminal import as_text
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
    """

    target: Target
    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class ProjectedLayer:
    """What became of one layer.

    Args:
        name: Its module.
        b: The B to use from now on (d_out, r), in float64; A stays.
        changed: Whether that is another one.
        cosine: Between the update and what the projection makes, or would make, of it.
        size: ‖BA‖_F as it was.
        kept: ‖B'A‖_F / ‖BA‖_F; 1 where nothing changed.
    """

    name: str
    b: Tensor
    changed: bool
    cosine: float
    size: float
    kept: float

    @classmethod
    def of(cls, layer: Layer, new_b: Tensor, changed: bool = True) -> Self:
        """The layer with ``new_b``, if it is to be changed, and the figures of that."""
        size = update_product(layer.a, layer.b, layer.b) ** 0.5
        kept = update_product(layer.a, new_b, new_b) ** 0.5 / size if changed and size else 1.0
        cosine = update_cosine(layer.a, layer.b, new_b)
        return cls(layer.target.name, new_b if changed else layer.b.double(), changed, cosine, size, kept)

    def figures(self) -> dict[str, Any]:
        """All but the tensor, as plain data."""
        return {"changed": self.changed, "cosine": self.cosine, "size": self.size, "kept": self.kept}


@dataclass(frozen=True)
class Projection(ABC):
    """A way to take a finished update back to the alignment direction."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Which of the checkpoints ``aligned`` and ``base`` it reads."""

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
        """The checkpoints that it reads, and no other.

        Raises:
            ConfigurationError: If one is not given, or cannot be read.
        """
        if "base" in self.needs and pretrained.base is None:
            raise ConfigurationError(
                f"{type(self).__name__} needs both checkpoints, and `base` is not given. Name it under `pretrained`."
            )
        model = pretrained.load_model_on_meta()
        return WeightPair(
            open_weights(pretrained.aligned, pretrained.revision, model) if "aligned" in self.needs else None,
            open_weights(str(pretrained.base), pretrained.base_revision, model) if "base" in self.needs else None,
        )


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
    remark = f"{changed} of {len(layers)} layers changed; kept: ‖B'A‖ / ‖BA‖."
    return f"{as_text(['module', 'cosine', '‖BA‖_F', 'kept'], rows)}\n{remark}"
