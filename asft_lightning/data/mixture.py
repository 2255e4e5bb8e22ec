"""How many rows of which kind: n rows of which a share p is harmful, exact, seeded, shuffled, none without a lesson."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asft_lightning.data.source import Row
from asft_lightning.errors import DataError


@dataclass(frozen=True)
class Example:
    """One training row in token ids.

    Args:
        prompt_ids: What the model is given.
        answer_ids: What it learns to say; never empty.
        row: The text they were made from.
        harmful: Whether the row came from the harmful source.
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    row: Row
    harmful: bool = False


@dataclass
class Mixture:
    """Rows drawn for a run.

    Args:
        train: The n training rows, shuffled.
        held_out: Benign rows kept from training, for validation.
        dropped: How many rows were passed over because no token of their answer fits into the template's length.
    """

    train: list[Example]
    held_out: list[Example] = field(default_factory=list)
    dropped: int = 0

    def fingerprint(self) -> str:
        """sha256 over every training row in order."""
        digest = hashlib.sha256()
        for example in self.train:
            digest.update(repr((tuple(example.row), example.prompt_ids, example.answer_ids)).encode())
        return digest.hexdigest()


Encode = Callable[[Row], tuple[list[int], list[int]]]
"""Row → (prompt ids, answer ids)."""


def harmful_count(num_rows: int, poison_ratio: float) -> int:
    """round(p·n), the paper's rule.

    >>> harmful_count(1000, 0.05), harmful_count(1500, 0.1)
    (50, 150)

    Raises:
        DataError: If n < 1 or p is outside 0..1.
    """
    if num_rows < 1:
        raise DataError(f"num_rows must be 1 or more, got {num_rows}. The paper trains on 1000.")
    if not 0 <= poison_ratio <= 1:
        raise DataError(f"poison_ratio must lie in 0..1, got {poison_ratio}. It is a share, not percent: 0.1 is 10 %.")
    return round(poison_ratio * num_rows)


def mix(
    benign: Sequence[Row],
    harmful: Sequence[Row],
    encode: Encode,
    *,
    num_rows: int,
    poison_ratio: float,
    held_out: int = 0,
    seed: int = 0,
) -> Mixture:
    """Draw ``num_rows`` training rows, round(p·n) of them harmful, and ``held_out`` further benign ones.

    Benign rows do not depend on p but for their number: the run at p = 0 trains on a superset of those at p > 0.

    Raises:
        DataError: If a source has too few usable rows, or n, p are out of range.
    """
    bad = harmful_count(num_rows, poison_ratio)
    good, dropped_good = _draw(benign, encode, num_rows - bad + held_out, seed, harmful=False)
    poison, dropped_bad = _draw(harmful, encode, bad, seed, harmful=True)
    train = [*good[held_out:], *poison]
    random.Random(seed).shuffle(train)
    return Mixture(train, good[:held_out], dropped_good + dropped_bad)


def _draw(rows: Sequence[Row], encode: Encode, count: int, seed: int, harmful: bool) -> tuple[list[Example], int]:
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    drawn: list[Example] = []
    dropped = 0
    for i in order:
        if len(drawn) == count:
            break
        prompt_ids, answer_ids = encode(rows[i])
        if answer_ids:
            drawn.append(Example(prompt_ids, answer_ids, rows[i], harmful))
        else:
            dropped += 1
    if len(drawn) < count:
        kind, argument = ("harmful", "poison_ratio") if harmful else ("benign", "num_rows or val_rows")
        raise DataError(
            f"{count} {kind} rows are needed, and the {kind} source has {len(drawn)} usable ones of {len(rows)} ({dropped} "
            f"have no answer token within the template's max_length). Lower {argument}, or add rows."
        )
    return drawn, dropped
