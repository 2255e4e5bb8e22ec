"""The first rows of one source, or of several by turns."""

from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest

from asft_lightning.chat.rows import Row
from asft_lightning.data.source import Source
from asft_lightning.errors import DataError


def first_rows(sources: Source | Sequence[Source], count: int) -> list[Row]:
    """So many rows from the first; of several sources one of each by turns, so that none crowds out another.

    Args:
        sources: One, or several; where one has no more rows the others go on.
        count: How many rows there may be in all.

    Raises:
        DataError: If there is no source, or one cannot be read.
    """
    if not (several := listed(sources)):
        raise DataError("prompts must be of one source or more, got an empty list. Name one.")
    return list(islice(_by_turns(several), count))


def listed(sources: Source | Sequence[Source] | None) -> list[Source]:
    """As a list, whichever way a setting names them."""
    return [sources] if isinstance(sources, Source) else list(sources or ())


def _by_turns(sources: Sequence[Source]) -> Iterator[Row]:
    for turn in zip_longest(*(source.iterate() for source in sources)):
        yield from (row for row in turn if row is not None)
