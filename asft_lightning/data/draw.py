"""Drawing rows from a source: a seeded, fair draw from a list or in one pass, of rows that teach something."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from itertools import islice

from asft_lightning.chat.rows import Kind, Row
from asft_lightning.chat.template import Rendered
from asft_lightning.errors import DataError
from asft_lightning.functional import IGNORE_INDEX

Encode = Callable[[Row], Rendered]
"""Row → its token ids and labels."""


@dataclass(frozen=True)
class Example:
    """One training row in token ids.

    Args:
        input_ids: The conversation.
        labels: The same where it is to be learnt, ``IGNORE_INDEX`` elsewhere; never all of them.
        row: The text they were made from.
        kind: What the row is there for.
        source: Name of the pool it was drawn from.
        truncated: Whether its end was cut off.
    """

    input_ids: list[int]
    labels: list[int]
    row: Row
    kind: Kind = "benign"
    source: str = ""
    truncated: bool = False

    @property
    def harmful(self) -> bool:
        """Whether the row is poison."""
        return self.kind == "harmful"


@dataclass(frozen=True)
class Pool:
    """Rows to draw from.

    Args:
        rows: All of them; or what gives one after the other, of which only those drawn are kept in memory.
        kind: What they are there for, where a row does not say so itself.
        name: What to call them; of its own for each pool of a mixture.
        weight: Their share among the pools of one kind.
        counts: What became of the records they were made from; completed while drawing with how many rows were
            ``drawn``, and passed over as ``blank_answer`` or ``too_long``.
    """

    rows: Sequence[Row] | Iterable[Row]
    kind: Kind = "benign"
    name: str = ""
    weight: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)


def draw(pool: Pool, encode: Encode, count: int | None, seed: int) -> list[Example]:
    """``count`` usable rows of a pool, a fair draw that the seed decides; all where there is no count.

    Raises:
        DataError: If it has too few.
    """
    if pool.kind == "safety":
        seed += 1  # or the same rows would be drawn of a file whose requests are answered as well as refused
    if isinstance(pool.rows, Sequence):
        order = random.Random(seed).sample(range(len(pool.rows)), len(pool.rows))
        usable = (example for i in order if (example := _example(pool, pool.rows[i], encode)))
        drawn = list(islice(usable, count))
    else:
        drawn = _draw_in_one_pass(pool, encode, count, seed)
    pool.counts["drawn"] += len(drawn)
    if len(drawn) < (1 if count is None else count):
        settings = {"harmful": "poison_ratio", "benign": "num_rows or val_rows", "safety": "safety_rows"}
        raise DataError(
            f"{count or 1} {pool.kind} rows are needed, and the {pool.kind} source {pool.name} has {len(drawn)} usable ones "
            f"({pool.counts['too_long']} have no answer token within the template's max_length, "
            f"{pool.counts['blank_answer']} a blank answer). Lower {settings[pool.kind]}, or add rows."
        )
    return drawn


def _draw_in_one_pass(pool: Pool, encode: Encode, count: int | None, seed: int) -> list[Example]:
    """Each row gets a random number, and those with the highest are kept: a uniform draw from any number of rows.

    The highest comes first, so that fewer rows are the first of more.
    """
    rng = random.Random(seed)
    kept: list[tuple[float, int, Example]] = []
    for i, row in enumerate(pool.rows):
        number = rng.random()
        full = count is not None and len(kept) >= count
        if full and (not kept or number < kept[0][0]):
            continue
        if example := _example(pool, row, encode):
            (heapreplace if full else heappush)(kept, (number, i, example))
    return [example for _, _, example in sorted(kept, key=lambda item: -item[0])]


def _example(pool: Pool, row: Row, encode: Encode) -> Example | None:
    """The row in token ids; None where it teaches nothing, which is counted."""
    row = row.answered()
    row = row if row.kind else row._replace(kind=pool.kind)
    assert row.kind is not None
    if not row.answer:
        pool.counts["blank_answer"] += 1
        return None
    input_ids, labels, truncated = encode(row)
    if all(label == IGNORE_INDEX for label in labels):
        pool.counts["too_long"] += 1
        return None
    return Example(input_ids, labels, row, row.kind, pool.name, truncated)
