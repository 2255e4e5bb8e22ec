"""Share: which of a map's points one of several processes scores."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from asft_lightning.errors import ConfigurationError
from asft_lightning.landscape.grid import Point


@dataclass(frozen=True)
class Share:
    """A part of the points.

    Args:
        number: Which, from 1.
        count: Of how many.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> Self:
        """From ``1/4``; None for all points.

        Raises:
            ConfigurationError: If it says no share.

        >>> Share.of("2/4"), Share.of(None)
        (Share(number=2, count=4), Share(number=1, count=1))
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise ConfigurationError(
                f"a share must be one of several, from 1/4 to 4/4, got {text!r}. Give each process one."
            )
        return cls(number, count)

    @property
    def folder(self) -> str:
        """Where in a map's folder its points are kept."""
        return "." if self.count == 1 else f"share-{self.number}-of-{self.count}"

    def among(self, points: Iterable[Point]) -> list[Point]:
        """Those of the points that are its own, each once."""
        return list(dict.fromkeys(points))[self.number - 1 :: self.count]
