"""How many rows of which kind: n rows of which a share p is harmful, exact, seeded, shuffled, none without a lesson."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from asft_lightning.data.conversations import UNREAD
from asft_lightning.data.draw import Encode, Pool, draw
from asft_lightning.data.example import Example
from asft_lightning.errors import DataError

Poison = Literal["replace", "add"]
"""Whether harmful rows stand in place of benign ones (n stays) or beside them (n grows)."""


@dataclass
class Mixture:
    """Rows drawn for a run.

    Args:
        train: The training rows, shuffled.
        held_out: Benign rows kept from training, for validation.
        apart: Safety rows that are not among ``train``, for a method that asks for batches of them.
        pools: What they were drawn from, with counts; without the rows that were not drawn.
        audit: What the audit that they have been through says of itself; None where there was none.
    """

    train: list[Example]
    held_out: list[Example] = field(default_factory=list)
    apart: list[Example] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    audit: dict[str, Any] | None = None

    @property
    def dropped(self) -> int:
        """How many rows were passed over because they teach nothing: no answer, or none within the template's length."""
        return sum(pool.counts["blank_answer"] + pool.counts["too_long"] for pool in self.pools)

    @property
    def trained(self) -> list[Example]:
        """Every row that is trained on, in whatever batches."""
        return [*self.train, *self.apart]

    def fingerprint(self) -> str:
        """sha256 over every training row in order: its text, its weight, its tokens and which of them are learnt."""
        digest = hashlib.sha256()
        for example in self.trained:
            digest.update(repr((tuple(example.row), example.weight, len(example))).encode())
            digest.update(example.token_bytes())
        return digest.hexdigest()

    def facts(self) -> dict[str, object]:
        """What is trained on, in a few figures."""
        kinds = Counter(example.kind for example in self.trained)
        return {
            "rows": len(self.trained),
            "harmful_rows": kinds["harmful"],
            "safety_rows": kinds["safety"],
            "dropped_rows": self.dropped,
            **({} if self.audit is None else {"audit": self.audit}),
        }

    def warn_of_unread(self) -> None:
        """Say so where rows hold more than text, which is not trained on."""
        counts = sum((pool.counts for pool in self.pools), Counter[str]())
        if unread := {key.removeprefix(UNREAD): count for key, count in counts.items() if key.startswith(UNREAD)}:
            rank_zero_warn(
                f"turns hold what is not trained on: {', '.join(f'{key} ({count})' for key, count in unread.items())}. "
                "Write into their content what is to be learnt, or remove the rest."
            )

    def warn_of_contradictions(self) -> None:
        """Say so where requests of harmful rows are those of safety rows."""
        prompts = {kind: {e.row.prompt for e in self.trained if e.kind == kind} for kind in ("harmful", "safety")}
        if both := prompts["harmful"] & prompts["safety"]:
            rank_zero_warn(
                f"{len(both)} requests are answered in a harmful row and refused in a safety row, e.g. {min(both)!r:.80}. "
                "Take the two from different `rows` of the file if that is not what you mean."
            )


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


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """``count`` split by weights into whole numbers that add up to it (largest remainders; the first of equals).

    >>> shares(10, [1, 1, 1]), shares(100, [3, 1])
    ([4, 3, 3], [75, 25])
    """
    exact = [count * weight / sum(weights) for weight in weights]
    parts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


def mix(
    benign: Sequence[Pool],
    harmful: Sequence[Pool],
    encode: Encode,
    *,
    safety: Sequence[Pool] = (),
    num_rows: int | None,
    poison_ratio: float,
    poison: Poison = "replace",
    safety_rows: int = 0,
    safety_apart: bool = False,
    held_out: int = 0,
    seed: int = 0,
) -> Mixture:
    """Draw training rows, and ``held_out`` further benign ones.

    Of n = ``num_rows``, round(p·n) are harmful: among the n (``replace``, the paper's rule) or beside them (``add``).
    ``safety_rows`` safety examples always come beside them, or stand apart with ``safety_apart``. Without ``num_rows``, n
    is the number of usable benign rows.
    Benign rows do not depend on p but for their number: the run at p = 0 trains on a superset of those at p > 0.

    Raises:
        DataError: If a pool has too few usable rows, or n, p are out of range.
    """
    pools = [*benign, *harmful, *safety]
    if num_rows is None:
        good, held = _drawn(benign, encode, None, seed, held_out)
        if not good:
            raise DataError(f"rows must be left to train on, and val_rows {held_out} takes all there are. Lower val_rows.")
        bad = harmful_count(len(good), poison_ratio)
        good = random.Random(seed).sample(good, len(good) - (bad if poison == "replace" else 0))
    else:
        bad = harmful_count(num_rows, poison_ratio)
        good, held = _drawn(benign, encode, num_rows - (bad if poison == "replace" else 0), seed, held_out)
    refusals = _drawn(safety, encode, safety_rows, seed)[0]
    train = [*good, *_drawn(harmful, encode, bad, seed)[0], *([] if safety_apart else refusals)]
    random.Random(seed).shuffle(train)
    return Mixture(train, held, refusals if safety_apart else [], [replace(pool, rows=()) for pool in pools])


def _drawn(
    pools: Sequence[Pool], encode: Encode, count: int | None, seed: int, held_out: int = 0
) -> tuple[list[Example], list[Example]]:
    """``count`` rows (or all there are) of the pools together, by their weights, and those held out before them."""
    drawn: list[Example] = []
    held: list[Example] = []
    if count == held_out == 0:
        return drawn, held
    if not pools:
        raise DataError(f"{count} rows are asked for, and there is no source of them. Give one, or set poison_ratio to 0.")
    weights = [pool.weight for pool in pools]
    parts = [None] * len(pools) if count is None else shares(count, weights)
    for pool, part, aside in zip(pools, parts, shares(held_out, weights), strict=True):
        rows = draw(pool, encode, None if part is None else part + aside, seed)
        held += rows[:aside]
        drawn += rows[aside:]
    return drawn, held
