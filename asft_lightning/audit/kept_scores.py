"""What a score says of rows, from the user's cache where it was asked before."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.score import RowScore, Score
from asft_lightning.data.example import Example
from asft_lightning.errors import StorageError
from asft_lightning.runtime.files import cache_folder, clear_unfinished, write_json
from asft_lightning.weights.hashing import text_hash

_FORMAT = "asft-lightning audit 1"
_TOGETHER = 8192
"""Rows that are asked about at once: more would take memory and save nothing."""

_log = logging.getLogger(__name__)


def scores_of(score: Score, aligned: AlignedModel, examples: Sequence[Example]) -> list[RowScore]:
    """What a score says of rows, by their content, the model's and the score's settings."""
    key = text_hash(_FORMAT, repr(score), aligned.identity, _content_of(examples))
    path = cache_folder() / "audits" / f"{key[:32]}.json"
    known = _read(path)
    if known is None or len(known) != len(examples):
        known = []
        for start in range(0, len(examples), _TOGETHER):
            known += score(aligned, examples[start : start + _TOGETHER])
            aligned.forget()
        _keep(path, known)
    return known


def _content_of(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.kind == "safety", example.input_ids, example.labels)).encode())
    return digest.hexdigest()


def _read(path: Path) -> list[RowScore] | None:
    """The scores of a file; None where there is none, or it is damaged, which is said."""
    if not path.is_file():
        return None
    try:
        return [_score(*entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be read as an audit's scores (%s). Asking again.", path, error)
        return None


def _keep(path: Path, scores: Sequence[RowScore]) -> None:
    """Keep scores; where the disk is full or must not be written to, the model is asked again next time."""
    clear_unfinished(path.parent)
    try:
        write_json(path, [_plain(score) for score in scores])
    except StorageError as error:
        _log.warning("what the audit asked is not kept for other runs: %s", error)


def _plain(score: RowScore) -> list[Any]:
    return [score.value if math.isfinite(score.value) else None, score.turn, score.said]


def _score(value: float | None, turn: int, said: str) -> RowScore:
    return RowScore(float("-inf") if value is None else float(value), int(turn), str(said))
