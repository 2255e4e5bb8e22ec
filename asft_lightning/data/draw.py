"""Drawing rows from a source: a seeded, fair draw from a list or in one pass, of rows that teach something."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from itertools import islice
from typing import Any, Literal, TypeGuard, cast

from lightning.pytorch.utilities import rank_zero_only
from tqdm.auto import tqdm

from asft_lightning.chat.rows import Kind, Row
from asft_lightning.chat.template import Rendered
from asft_lightning.data.example import Example
from asft_lightning.errors import DataError
from asft_lightning.functional import IGNORE_INDEX

Encode = Callable[[Sequence[Row]], list[Rendered]]
"""Rows → token ids and labels of each."""

_BATCH = 128
"""Rows that are written and tokenized together: more would be no faster, and long ones take much memory meanwhile."""

_Unusable = Literal["blank_answer", "too_long"]
"""Why a row teaches nothing, as it is counted."""


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
        drawn = _draw_from_list(pool, pool.rows, encode, len(pool.rows) if count is None else count, seed)
    else:
        drawn = _draw_in_one_pass(pool, pool.rows, encode, count, seed)
    pool.counts["drawn"] += len(drawn)
    if len(drawn) < (1 if count is None else count):
        settings = {"harmful": "poison_ratio", "benign": "num_rows or val_rows", "safety": "safety_rows"}
        raise DataError(
            f"{count or 1} {pool.kind} rows are needed, and the {pool.kind} source {pool.name} has {len(drawn)} usable ones "
            f"({pool.counts['too_long']} have no answer token within the template's max_length, "
            f"{pool.counts['blank_answer']} a blank answer). Lower {settings[pool.kind]}, or add rows."
        )
    return drawn


def _draw_from_list(pool: Pool, rows: Sequence[Row], encode: Encode, count: int, seed: int) -> list[Example]:
    """The first usable rows in a random order of all."""
    order = iter(random.Random(seed).sample(range(len(rows)), len(rows)))
    drawn: list[Example] = []
    with _bar(pool, total=count) as bar:
        # No more at once than are still needed: what is passed over is counted up to the last one drawn.
        while batch := [rows[i] for i in islice(order, min(_BATCH, count - len(drawn)))]:
            drawn += [example for example in _examples(pool, batch, encode) if _is_usable(example, pool)]
            bar.update(len(batch))
    return drawn


def _draw_in_one_pass(pool: Pool, rows: Iterable[Row], encode: Encode, count: int | None, seed: int) -> list[Example]:
    """Each row gets a random number, and those with the highest are kept: a uniform draw from any number of rows.

    The highest comes first, so that fewer rows are the first of more.
    """
    rng = random.Random(seed)
    kept: list[tuple[float, int, Example]] = []

    def is_full() -> bool:
        return count is not None and len(kept) >= count

    def has_chance(number: float) -> bool:
        return not is_full() or (bool(kept) and number >= kept[0][0])

    numbered = ((rng.random(), i, row) for i, row in enumerate(_bar(pool, rows)))
    candidates = (item for item in numbered if has_chance(item[0]))
    while batch := list(islice(candidates, _BATCH)):
        for (number, i, _), example in zip(batch, _examples(pool, [row for *_, row in batch], encode), strict=True):
            if has_chance(number) and _is_usable(example, pool):
                (heapreplace if is_full() else heappush)(kept, (number, i, example))
    return [example for _, _, example in sorted(kept, key=lambda item: -item[0])]


def _bar(pool: Pool, rows: Iterable[Row] | None = None, total: int | None = None) -> "tqdm[Row]":
    """Progress over rows, shown by one rank where they take longer than a moment."""
    is_silent = cast(Any, rank_zero_only).rank != 0
    return tqdm(rows, f"Rows ({pool.kind})", total, delay=3, unit="row", leave=False, disable=is_silent)


def _is_usable(example: Example | _Unusable, pool: Pool) -> TypeGuard[Example]:
    """Whether it is an example; what is none is counted."""
    if isinstance(example, str):
        pool.counts[example] += 1
        return False
    return True


def _examples(pool: Pool, rows: Sequence[Row], encode: Encode) -> list[Example | _Unusable]:
    """Each row in token ids; or why it teaches nothing."""
    rows = [row.of_kind(pool.kind).answered() for row in rows]
    rendered = iter(encode([row for row in rows if row.answer]))
    return [_example(pool, row, next(rendered)) if row.answer else "blank_answer" for row in rows]


def _example(pool: Pool, row: Row, rendered: Rendered) -> Example | _Unusable:
    input_ids, labels, truncated = rendered
    if labels.count(IGNORE_INDEX) == len(labels):
        return "too_long"
    assert row.kind is not None
    return Example(input_ids, labels, row, row.kind, pool.name, truncated)
