"""KeptReplies: what a server said of images, each kept as it comes, so that nothing is asked twice."""

import json
from pathlib import Path

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import append, drop_half_line


class KeptReplies:
    """A file of replies, a JSON object a line: ``key`` (what was asked, of which image), ``id``, and ``reply`` as it came.

    Args:
        path: The file; made when there is something to keep. Half of a last line, as a killed run leaves, is cut off.

    Raises:
        ConfigurationError: If it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said: dict[str, list[str]] = {}
        drop_half_line(path)
        if path.is_file():
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                self._read(number, line)

    def of(self, key: str) -> list[str]:
        """The replies to one question about one image, from the first."""
        return self._said.get(key, [])

    def keep(self, key: str, image_id: int, reply: str) -> None:
        """Add a reply.

        Raises:
            StorageError: If the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append(self.path, json.dumps({"id": image_id, "reply": reply, "key": key}, ensure_ascii=True) + "\n")
        self._said.setdefault(key, []).append(reply)

    def _read(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, reply = entry["key"], entry["reply"]
            if not (isinstance(key, str) and isinstance(reply, str)):
                raise TypeError(f"key {key!r:.20}, reply {reply!r:.20}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ConfigurationError(
                f"{self.path} must hold a reply a line, and line {number} is none ({error!s:.100}). Take that line out."
            ) from error
        self._said.setdefault(key, []).append(reply)
