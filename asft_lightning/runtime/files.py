"""Where files are kept, and writing them so that an interruption never leaves half of one."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from asft_lightning.errors import ConfigurationError, StorageError


def user_path(path: str | Path) -> Path:
    """A path as a user may write it, with ``~`` for the home folder: every one that is given passes through here."""
    return Path(path).expanduser()


def cache_folder() -> Path:
    """What may be built again: `$ASFT_LIGHTNING_CACHE`, or else `asft-lightning` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    if chosen := os.environ.get("ASFT_LIGHTNING_CACHE"):
        return user_path(chosen)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "asft-lightning"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder for one process, however it ends.

    Raises:
        ConfigurationError: If another process has it.
        StorageError: If it cannot be written.
    """
    import fcntl  # not on Windows

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"{folder} is one process's at a time, and another is at work there. Wait for it, or name another folder."
            ) from error
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn every library's way to say that ``path`` cannot be written into one.

    Raises:
        StorageError: If it cannot; names the path and the remedy.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A new folder to write into, which becomes ``path`` at the end; where that cannot be, ``path`` is as it was.

    Args:
        path: What it is to be.
        replace: Whether in place of a folder that is there.

    Raises:
        StorageError: If it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            yield new
            if replace and path.exists():
                path.rename(Path(temporary) / "old")
            new.rename(path)


def require_absent(output: Path) -> None:
    """Refuse to write over anything.

    Raises:
        ConfigurationError: If ``output`` is there.
    """
    if output.exists():
        raise ConfigurationError(f"output must not exist yet, and {output} does. Remove it, or name another folder.")


def unwritable(path: str | Path, error: Exception) -> StorageError:
    """The error for a file or folder that cannot be written: which, why, and what to do."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    full = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
    first = "Make room" if full else "Allow it to be written"
    cached = cache_folder() in Path(path).parents
    other = "set ASFT_LIGHTNING_CACHE to another folder" if cached else "name another folder"
    then = "" if cached else "; a run with checkpoints then goes on with --ckpt_path last"
    return StorageError(
        f"{path} must be written, and cannot be ({reason}). What was there before is as it was. {first}, or {other}{then}."
    )


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside, sync, and rename into place; the folder is made where it is absent.

    Raises:
        StorageError: If that cannot be; what was there before is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
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
