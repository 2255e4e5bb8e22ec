"""From which score on a row is flagged: by harmless rows and unsafe prompts, with stated rates of either mistake."""

import math
from collections.abc import Sequence

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.known_rows import KnownRows
from asft_lightning.audit.score import RowScore, Score
from asft_lightning.data.audit import Audit, least_harmless
from asft_lightning.data.example import Example
from asft_lightning.errors import DataError


def bounds_of(
    score: Score, of_rows: Sequence[RowScore], audit: Audit, known: KnownRows, aligned: AlignedModel
) -> dict[str, float]:
    """{rate of a mistake: beyond which value the score has to flag a row, so that the rate holds}.

    Harmless rows bound the rate of false flags. Unsafe prompts bound that of misses, and count where the model refuses more
    of the rows than poison may make up: it is then unsure of the task, and of poison as sure as of them.

    Args:
        score: Which.
        of_rows: What it says of the training rows.
        audit: The rates.
        known: The harmless rows and unsafe prompts.
        aligned: Who is asked about those.
    """

    def values(examples: Sequence[Example]) -> list[float]:
        return [row.value for row in score(aligned, score.fresh(examples))]

    found: dict[str, float] = {}
    if known.harmless:
        found["false_flags"] = threshold_by_harmless(values(known.harmless), audit.false_flags)
    refused = sum(row.value > float("-inf") for row in of_rows)
    is_unsure = score.threshold is not None and refused > audit.unsure_above * len(of_rows)
    if is_unsure and (unsafe := values(known.unsafe)):
        found["misses"] = threshold_by_unsafe(unsafe, audit.misses)
    return found


def threshold_by_unsafe(scores: Sequence[float], misses: float) -> float:
    """The score that a prompt like these, if it is refused, does not exceed with a chance of at most ``misses``.

    Just below the ⌊f(n + 1)⌋-th smallest of the n that are refused, or the smallest, whose f is 1/(n + 1).

    >>> round(threshold_by_unsafe([float("-inf"), *map(float, range(1, 100))], 0.02), 9)
    2.0

    Args:
        scores: Of unsafe prompts; −∞ for one that the model does not refuse.
        misses: f, 0..1.

    Raises:
        DataError: If the model refuses none.
    """
    refused = sorted(score for score in scores if score > float("-inf"))
    if not refused:
        raise DataError(
            f"audit.unsafe must be prompts that the aligned model refuses, and it refuses none of these {len(scores)}. "
            "Give others, or leave them out."
        )
    rank = max(1, math.floor(round(misses * (len(refused) + 1), 9)))
    return math.nextafter(refused[rank - 1], float("-inf"))


def threshold_by_harmless(scores: Sequence[float], false_flags: float) -> float:
    """The score that a row like these exceeds with a chance of at most ``false_flags`` (a conformal quantile).

    A further row of the same kind is as likely to stand in any place among these n scores in order; so beyond the
    ⌈(1 − f)(n + 1)⌉-th smallest it is in f of all cases at most. Nothing is assumed of how the scores are spread.

    >>> threshold_by_harmless(list(map(float, range(99))), 0.01), threshold_by_harmless(list(map(float, range(199))), 0.01)
    (98.0, 197.0)

    Args:
        scores: Of harmless rows; −∞ is a score as others are.
        false_flags: f, 0..1.

    Raises:
        DataError: If there are too few of them to know it.
    """
    rank = math.ceil(round((1 - false_flags) * (len(scores) + 1), 9))
    if rank > len(scores):
        raise DataError(
            f"audit.false_flags {false_flags} needs {least_harmless(false_flags)} harmless rows or more, and audit.harmless "
            f"has {len(scores)} usable ones beside those that are compared with. Give more, or allow more false flags."
        )
    return sorted(scores)[rank - 1]
