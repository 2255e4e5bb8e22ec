"""Directions in which a model's weights can be moved: one small class each, which gives its part of any weight."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from asft_lightning.errors import ConfigurationError
from asft_lightning.landscape.space import Space
from asft_lightning.modules.adapter_shapes import adapter_shapes
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.names import require_name
from asft_lightning.weights.adapter_factors import read_factors, update_scaling
from asft_lightning.weights.locations import resolve_folder
from asft_lightning.weights.matrices import Weights, open_weights
from asft_lightning.weights.targets import find_lora_factors

Parts: TypeAlias = Callable[[str], Tensor | None]
"""From a weight's name to a direction's part of it, in its shape, float32 or wider; None where that is 0."""


_ROUNDING = 1e-6
"""Relative: what is left of a direction that lies wholly in another."""


class Direction(ABC):
    """A way to move weights."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name in figures and files."""

    @abstractmethod
    def open(self, space: Space) -> Parts:
        """Its parts of the space's weights, each read or drawn when it is asked for: no more than one lies in memory.

        Raises:
            ConfigurationError: If it cannot be had.
        """


@dataclass(frozen=True)
class Aligned(Direction):
    """The alignment direction θ_aligned − θ_base; at −1, unscaled, stands the base model."""

    @property
    def label(self) -> str:
        """``aligned``."""
        return "aligned"

    def open(self, space: Space) -> Parts:
        """From the two checkpoints.

        Raises:
            ConfigurationError: If ``base`` is not given.
        """
        pretrained = space.pretrained
        if pretrained.base is None:
            raise ConfigurationError(
                "the aligned direction is θ_aligned − θ_base, and pretrained.base is not given. Name it, or leave it out."
            )
        aligned = open_weights(pretrained.aligned, pretrained.revision, space.model)
        return _difference(aligned, open_weights(pretrained.base, pretrained.base_revision, space.model), space)


@dataclass(frozen=True)
class Tuned(Direction):
    """Towards what became of the model: a finished run, an adapter, or another model of the same shape.

    Unscaled, the tuned model stands at 1: a line to another model is an interpolation. Tuned on harmful rows, it is the
    harmful direction.

    Args:
        place: The folder of a run or of an adapter in PEFT's format, or a model's folder or hub id.
        name: What to call it, e.g. ``harmful``.
    """

    place: str
    name: str

    def __post_init__(self) -> None:
        """Refuse a name that files and tables could not bear."""
        require_name("a direction's name", self.name)
        if self.name.startswith(Random.PREFIX):
            raise ConfigurationError(
                f"names in {Random.PREFIX} are for random directions, got {self.name!r}. Name it otherwise."
            )

    @property
    def label(self) -> str:
        """Its name."""
        return self.name

    def open(self, space: Space) -> Parts:
        """ΔW = (α/r)·BA of an adapter, θ_tuned − θ of a model.

        Raises:
            ConfigurationError: If it cannot be read, does not fit, or is an adapter that changes other weights too.
        """
        own = RunFolder(user_path(self.place)).adapter
        folder = own if own.is_dir() else resolve_folder(self.place)
        if (folder / "adapter_config.json").is_file():
            return adapter_update(folder, space)
        location, revision = space.pretrained.origin
        return _difference(open_weights(folder, model=space.model), open_weights(location, revision, space.model), space)


@dataclass(frozen=True)
class Random(Direction):
    """Gaussian numbers; the same on every machine.

    Args:
        seed: Which, together with a weight's name.
    """

    PREFIX: ClassVar[str] = "random-"
    seed: int = 0

    @property
    def label(self) -> str:
        """``random-SEED``."""
        return f"{self.PREFIX}{self.seed}"

    def open(self, space: Space) -> Parts:
        """Drawn on the CPU, anew each time."""

        def part(name: str) -> Tensor:
            digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
            return torch.randn(space.shapes[name], generator=generator)

        return part


def orthogonal(parts: Parts, other: Parts) -> Parts:
    """A direction without what lies in another: weight by weight, so that it holds however each is scaled."""

    def part(name: str) -> Tensor | None:
        own, along = parts(name), other(name)
        if own is None or along is None or not bool(along.any()):
            return own
        exact = along.double()
        left = own - exact * ((own * exact).sum() / exact.square().sum())
        return left.to(own.dtype) if left.norm() > _ROUNDING * own.norm() else None

    return part


def adapter_update(folder: Path, space: Space, factors: Mapping[str, Tensor] | None = None) -> Parts:
    """ΔW = (α/r)·BA of an adapter.

    Args:
        folder: The adapter's, in PEFT's format.
        space: The weights that are moved.
        factors: {name: factor} in place of the folder's own, as they were earlier.

    Raises:
        ConfigurationError: If it cannot be read, does not fit, or changes other weights too.
    """
    shapes = adapter_shapes(folder, space.pretrained)
    targets = {f"{factor.target.name}.weight": factor.target for factor in find_lora_factors(shapes)}
    if outside := [name for name in targets if name not in space.shapes]:
        raise ConfigurationError(
            f"an adapter's update must lie in the weights that are moved, and {folder} changes {outside[0]}, which is not "
            "among them. Set lora.target_modules to the adapter's, or weights to all."
        )
    config = shapes.peft_config["default"]
    weights = open_weights(folder, model=shapes) if factors is None else open_weights(factors)

    def part(name: str) -> Tensor | None:
        if name not in targets:
            return None
        target = targets[name]
        a, b = (factor.to(torch.promote_types(factor.dtype, torch.float32)) for factor in read_factors(weights, target))
        update = update_scaling(config, target.name, len(a)) * (b @ a)
        return update.mT if target.transposed else update

    return part


def _difference(there: Weights, here: Weights, space: Space) -> Parts:
    def part(name: str) -> Tensor:
        ends = (weights.weight(name, space.shapes[name]) for weights in (there, here))
        there_wide, here_wide = (end.to(torch.promote_types(end.dtype, torch.float32)) for end in ends)
        return there_wide - here_wide

    return part
