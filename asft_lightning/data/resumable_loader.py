"""ResumableLoader: goes on where an interrupted epoch stopped."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

from asft_lightning.errors import ConfigurationError


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose state Lightning keeps in checkpoints; a plain one replays the epoch's first batches.

    It needs a sampler whose order follows from the epoch alone, as :func:`epoch_sampler` gives one, and draws nothing from
    the global generators, so that dropout goes on as it would have.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"generator": torch.Generator(), **kwargs})
        self._skipped = 0
        self._given = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The epoch's batches, but for those that a resumed run has trained on."""
        self._given, self._skipped = self._skipped, 0
        for batch in islice(super().__iter__(), self._given, None):
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given; 0 at its end."""
        return {"batches": self._given % max(len(self), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch after so many batches.

        Raises:
            ConfigurationError: If there are not so many.
        """
        given = state.get("batches")
        if type(given) is not int or not 0 <= given < max(len(self), 1):
            raise ConfigurationError(
                f"a checkpoint must tell how many of the epoch's {len(self)} batches were given, and has {given!r:.60}. "
                "Go on from another one."
            )
        self._skipped = given


def epoch_sampler(
    examples: Sequence[Any], world: int, rank: int, seed: int, shuffle: bool, by_length: int | None = None
) -> DistributedSampler[Any]:
    """Which rows a rank gets, in which order: that follows from the seed and the epoch alone.

    Args:
        examples: All rows; with a length each, for ``by_length``.
        world: Number of ranks.
        rank: Whose sampler it is.
        seed: Of the orders.
        shuffle: Another order in each epoch; else the rows' own.
        by_length: Rows a batch, to shuffle so that those of a batch are of similar length; None for not.
    """
    if by_length is not None:
        lengths = [len(example) for example in examples]
        sampler: DistributedSampler[Any] = DistributedLengthGroupedSampler(
            by_length * world, num_replicas=world, rank=rank, seed=seed, lengths=lengths
        )
        return sampler
    return DistributedSampler(cast("Dataset[Any]", examples), world, rank, shuffle=shuffle, seed=seed)
