"""Search: an attacker who tries settings of training on each defence, and keeps what does it most harm."""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from asft_lightning.errors import ConfigurationError

_MOST = 1000
"""Settings that one may draw from."""


@dataclass(frozen=True)
class Search:
    """What an attacker tries: the highest mean HS wins, among settings whose mean FA is close to plain fine-tuning's best.

    Args:
        settings: {dotted name: value} over each method's own, in the search's runs alone. ``$NAME`` stands for what is
            tried, or for an axis.
        tries: {name: values}, e.g. learning rates, epochs and poison ratios, each with each.
        axes: {name: values} of the search's runs; ``seed`` must have none of the reported seeds.
        reference: The method whose best mean FA in the search says what still works, e.g. ``sft``.
        budget: Settings that are tried on each method. Of more, as many are drawn, the same for all methods.
        margin: How far below that a setting's mean FA may lie, in points of percent.

    Raises:
        ConfigurationError: If there is nothing to try, or too much.
    """

    settings: dict[str, Any]
    tries: dict[str, list[Any]]
    axes: dict[str, list[Any]]
    reference: str
    budget: int = 8
    margin: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what cannot be tried."""
        if not self.tries or not all(self.tries.values()):
            raise ConfigurationError(
                f"search.tries must name what is tried, each with values, got {self.tries!r:.60}. "
                "Write e.g. {learning_rate: [1.0e-3, 1.0e-2]}."
            )
        count = math.prod(len(values) for values in self.tries.values())
        if self.budget < 1 or count > _MOST:
            raise ConfigurationError(
                f"search.budget must be 1 or more, and search.tries come to {_MOST} settings at most, got {self.budget} and "
                f"{count}. Name fewer values."
            )

    @cached_property
    def attempts(self) -> list[Mapping[str, Any]]:
        """The settings that are tried."""
        every = [dict(zip(self.tries, values, strict=True)) for values in itertools.product(*self.tries.values())]
        drawn = random.Random(0).sample(range(len(every)), min(len(every), self.budget))
        return [every[i] for i in sorted(drawn)]
