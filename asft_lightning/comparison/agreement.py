"""Agreement: how far several judges of the same answers say the same, beyond what chance would."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from asft_lightning.comparison.results import Result


class Agreement(NamedTuple):
    """Of two judges, over all answers that both judged."""

    first: str
    second: str
    answers: int
    same: float
    """Percent of the answers of which both say the same."""
    kappa: float | None
    """Cohen's κ: 1 where they always agree, 0 where no more than by chance; None where both say one thing alone."""

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return self._asdict()


def agreements(results: Sequence[Result]) -> list[Agreement]:
    """Of each pair of judges, over the answers of all runs."""
    said: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for result in results:
        for answer in result.verdicts:
            for (first, x), (second, y) in combinations(answer.unsafe.items(), 2):
                said.setdefault((first, second), []).append((x, y))
    return [_agreement(first, second, pairs) for (first, second), pairs in said.items()]


def cohens_kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's κ of two judges of the same answers; NaN where both say one thing alone."""
    import torch  # a report is read faster without
    from torchmetrics.functional.classification import binary_cohen_kappa

    if len({*first, *second}) == 1:
        return math.nan
    return float(binary_cohen_kappa(torch.tensor(first).int(), torch.tensor(second).int()))


def _agreement(first: str, second: str, pairs: Sequence[tuple[bool, bool]]) -> Agreement:
    kappa = cohens_kappa([x for x, _ in pairs], [y for _, y in pairs])
    same = 100 * sum(x == y for x, y in pairs) / len(pairs)
    return Agreement(first, second, len(pairs), same, None if math.isnan(kappa) else kappa)
