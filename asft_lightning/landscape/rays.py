"""Rays: directions made ready to be gone along: scaled, and measured against each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor

from asft_lightning.errors import ConfigurationError
from asft_lightning.landscape.directions import Parts

Norm = Literal["frobenius", "global", "raw"]
_Factors: TypeAlias = Callable[[Mapping[str, float], Mapping[str, Tensor]], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Ray:
    """A direction, scaled.

    Args:
        name: The direction's.
        parts: Its parts as they came.
        factors: By which each weight's part is multiplied; of other weights the part is 0.
        squares: The square of the norm of each weight's part, scaled.
        length: The norm of all parts as they came: scaled ones may be alike where directions are not.
    """

    name: str
    parts: Parts
    factors: Mapping[str, float]
    squares: Mapping[str, float]
    length: float

    @classmethod
    def of(cls, name: str, parts: Parts, weights: Mapping[str, Tensor], norm: Norm = "frobenius") -> Self:
        """Scale a direction, in one pass over its parts.

        Args:
            name: Its name.
            parts: Its parts.
            weights: {name: weight} at the centre.
            norm: ``frobenius``: each matrix's part has the matrix's own norm, and what is no matrix stays (as
                llm-landscape); ``global``: all parts together have norm 1; ``raw``: as it comes.

        Raises:
            ConfigurationError: If it is 0, or not finite.
        """
        squares = {weight: _square(parts(weight)) for weight in weights}
        total = sum(squares.values())
        if not 0 < total < math.inf:
            raise ConfigurationError(
                f"a direction must lead somewhere, and {name} is {total} on all {len(weights)} weights that are moved. Does "
                "it change others, or lie wholly in the one that it was made orthogonal to?"
            )
        factors = _NORMS[norm]({weight: square for weight, square in squares.items() if square}, weights)
        scaled = {weight: factor**2 * squares[weight] for weight, factor in factors.items()}
        return cls(name, parts, factors, scaled, math.sqrt(total))

    @property
    def norm(self) -> float:
        """‖d̂‖: how far 1 along it is."""
        return math.sqrt(sum(self.squares.values()))

    def part(self, weight: str) -> Tensor | None:
        """Its scaled part of a weight; None where that is 0."""
        part = self.parts(weight) if weight in self.factors else None
        return None if part is None else part * self.factors[weight]


def cosines(rays: Sequence[Ray], others: Sequence[Ray], names: Sequence[str]) -> list[list[float]]:
    """The cosine of each ray with each of others, (rays, others); only the others' parts of one weight lie in memory.

    Args:
        rays: Rays.
        others: A few of them.
        names: Of the weights.
    """
    products = torch.zeros(len(rays), len(others), dtype=torch.float64)
    for name in names:
        beside = [other.part(name) for other in others]
        for i, ray in enumerate(rays):
            if (own := ray.part(name)) is not None:
                products[i] += torch.tensor([0.0 if part is None else _product(own, part) for part in beside])
    norms = torch.outer(_norms(rays), _norms(others))
    found: list[list[float]] = (products / norms).tolist()
    return found


def _frobenius(squares: Mapping[str, float], weights: Mapping[str, Tensor]) -> dict[str, float]:
    matrices = {name: square for name, square in squares.items() if weights[name].ndim >= 2}
    return {name: math.sqrt(_square(weights[name]) / square) for name, square in matrices.items()}


def _global(squares: Mapping[str, float], weights: Mapping[str, Tensor]) -> dict[str, float]:
    return dict.fromkeys(squares, 1.0 / math.sqrt(sum(squares.values())))


def _raw(squares: Mapping[str, float], weights: Mapping[str, Tensor]) -> dict[str, float]:
    return dict.fromkeys(squares, 1.0)


_NORMS: Mapping[Norm, _Factors] = MappingProxyType({"frobenius": _frobenius, "global": _global, "raw": _raw})


def _square(part: Tensor | None) -> float:
    return 0.0 if part is None else float(part.detach().double().square().sum())


def _product(one: Tensor, other: Tensor) -> float:
    return float((one.double() * other.double()).sum())


def _norms(rays: Sequence[Ray]) -> Tensor:
    return torch.tensor([ray.norm for ray in rays], dtype=torch.float64)
