"""What anchors were built before, found again by the content of what they were built from."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.errors import AnchorError, StorageError
from asft_lightning.runtime.files import clear_unfinished, user_path

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Savable(Protocol):
    """What has a file."""

    def save(self, path: Path) -> None:
        """Write it."""


class AnchorCache:
    """A folder of finished anchors. Two processes that build at once both end with one good file.

    Args:
        folder: Where they are kept; made where it is absent.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder)

    def path(self, key: str) -> Path:
        """The file for a key of :func:`cache_key`."""
        return self.folder / f"{key}.safetensors"

    def get(self, key: str) -> AnchorSet | None:
        """The anchors of this key; None where there are none, or where the file is damaged or another's."""
        path = self.path(key)
        anchors = read_if_kept(path, AnchorSet.load)
        if anchors is None:
            return None
        if cache_key([term.settings for term in anchors.terms], anchors.shapes, anchors.sources) != key:
            _log.warning("%s holds the anchors of something else. Building them again.", path)
            return None
        return anchors

    def put(self, key: str, anchors: AnchorSet) -> None:
        """Keep anchors under a key; where the disk is full or must not be written to, they are built again next time."""
        keep(anchors, self.path(key))


def read_if_kept(path: Path, load: Callable[[Path], T]) -> T | None:
    """What ``load`` reads of a file of the cache; None where there is none, or it is damaged, which is said."""
    if not path.is_file():
        return None
    try:
        return load(path)
    except AnchorError as error:
        _log.warning("%s Doing so.", error)
        return None


def keep(built: Savable, path: Path) -> None:
    """Keep what was built; where the disk is full or must not be written to, it is built again next time."""
    clear_unfinished(path.parent)
    try:
        built.save(path)
    except StorageError as error:
        _log.warning("what was built is not kept for other runs: %s", error)


def cache_key(
    settings: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, int]], sources: Mapping[str, str]
) -> str:
    """What anchors follow from: their settings, their modules, and the content of the weights they read."""
    plain = [AnchorSet.FORMAT, [dict(s) for s in settings], {k: list(v) for k, v in shapes.items()}, dict(sources)]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
