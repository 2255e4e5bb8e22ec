"""What the aligned model said, question by question, in the user's cache."""

import hashlib
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from asft_lightning.runtime.files import cache_folder
from asft_lightning.weights.hashing import text_hash

_FORMAT = "asft-lightning facts 1"
_TABLE = "CREATE TABLE IF NOT EXISTS facts (asked BLOB PRIMARY KEY, said BLOB NOT NULL) WITHOUT ROWID"
_AT_ONCE = 500
"""Questions that are looked up together: every SQLite takes as many."""
_PATIENCE = 60.0
"""Seconds to wait for another process, which writes for some milliseconds."""

_log = logging.getLogger(__name__)


def fact_key(what: str, ids: Sequence[int]) -> bytes:
    """What a fact is found by.

    Args:
        what: What is asked about them.
        ids: Token ids.
    """
    return hashlib.sha256(what.encode() + b"\n" + np.asarray(ids, "<i8").tobytes()).digest()[:16]


class KeptFacts:
    """What one model said: lists of numbers, each kept for good as soon as it is known.

    They lie in a database of their own, which several processes may read and write at once, and which an interruption
    leaves whole. One that is damaged is said and begun anew. Where it can be neither read nor written, that is said once,
    and the model is asked again next time.

    Args:
        identity: What tells the model's facts from another's.
    """

    def __init__(self, identity: str) -> None:
        self._path = cache_folder() / "audits" / f"{text_hash(_FORMAT, identity)[:32]}.sqlite"
        self._is_usable = True

    def recall(self, keys: Sequence[bytes]) -> dict[bytes, list[float]]:
        """Those of these facts that are kept."""
        if not self._is_usable or not self._path.is_file():
            return {}
        try:
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE)) as database:
                database.text_factory = bytes  # of a damaged page
                database.execute(_TABLE)
                parts = [keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)]
                return {key: _opened(said) for part in parts for key, said in _rows(database, part)}
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._give_up(error)
            return {}

    def keep(self, facts: Mapping[bytes, Sequence[float]]) -> None:
        """Keep facts, all or none of them."""
        if not self._is_usable:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE)) as database, database:
                database.execute(_TABLE)
                sealed = [(key, _sealed(said)) for key, said in facts.items()]
                database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", sealed)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Begin a damaged file anew; do without one that cannot be used."""
        is_damaged = not isinstance(error, (sqlite3.OperationalError, OSError))
        if is_damaged and _removed(self._path):
            _log.warning("%s cannot be read as an audit's facts (%s). Asking again.", self._path, error)
            return
        self._is_usable = False
        _log.warning(
            "what the audit asks is not kept for other runs: %s cannot be used (%s). Allow it to be written, make room, "
            "or set ASFT_LIGHTNING_CACHE to another folder.",
            self._path,
            error,
        )


def _rows(database: sqlite3.Connection, keys: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    places = ", ".join("?" * len(keys))
    return database.execute(f"SELECT asked, said FROM facts WHERE asked IN ({places})", keys)


def _removed(path: Path) -> bool:
    """Whether a database is gone: its journal first, which would be played into the next one."""
    try:
        for left in (path.with_name(f"{path.name}-journal"), path):
            left.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _sealed(said: Sequence[float]) -> bytes:
    """With a checksum: SQLite knows whether its pages are sound, not what is written on them."""
    content = np.asarray(said, "<f8").tobytes()
    return zlib.crc32(content).to_bytes(4, "little") + content


def _opened(said: bytes) -> list[float]:
    """What was sealed.

    Raises:
        ValueError: If it is damaged.
    """
    if zlib.crc32(said[4:]).to_bytes(4, "little") != said[:4]:
        raise ValueError("a checksum differs")
    return [float(value) for value in np.frombuffer(said[4:], "<f8")]
