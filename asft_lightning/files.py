"""Where files are kept, and writing them so that an interruption never leaves half of one."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """What may be built again: `$ASFT_LIGHTNING_CACHE`, or else `asft-lightning` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    if chosen := os.environ.get("ASFT_LIGHTNING_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "asft-lightning"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside, sync, and rename into place; the folder is made where it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # as any other file: mkstemp's are for their owner alone
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
