"""EndlessBatches: shuffled batches of a few rows, by number, for a method that asks for them itself."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from asft_lightning.data.example import Example


@dataclass(frozen=True)
class EndlessBatches:
    """Batch 0, 1, 2, … without an end; each follows from its number alone, so that a resumed run needs no more than that.

    Rows go round in another order each time, and each comes as often as any other; every batch is full.

    Args:
        examples: The rows.
        batch_size: Rows a batch and rank.
        collate: From rows to a batch.
        seed: Of the orders.
        world: Number of ranks, of which each gets batches of its own.
        rank: Whose batches these are.
    """

    examples: Sequence[Example]
    batch_size: int
    collate: Callable[[Sequence[Example]], dict[str, Tensor]]
    seed: int = 0
    world: int = 1
    rank: int = 0

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """The batch of this number."""
        first = (number * self.world + self.rank) * self.batch_size
        places = [divmod(place, len(self.examples)) for place in range(first, first + self.batch_size)]
        orders = {turn: self._order(turn) for turn in {turn for turn, _ in places}}
        return self.collate([self.examples[orders[turn][i]] for turn, i in places])

    def _order(self, turn: int) -> list[int]:
        count = len(self.examples)
        return random.Random(f"{self.seed} {turn}").sample(range(count), count)
