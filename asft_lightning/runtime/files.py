"""Where files are kept, and writing them so that an interruption never leaves half of one."""

import errno
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from asft_lightning.errors import ConfigurationError, StorageError
from asft_lightning.runtime.json_text import as_json
from asft_lightning.runtime.locks import lock

_UNFINISHED = ".asft-unfinished"
"""How the name of all that is being written ends. It begins with a dot; its writer holds a lock on it while it lives."""
_TRIES = 100
"""To lock a folder that others remove meanwhile."""
LOCK = ".lock"
"""In a folder that one process has: it holds a lock on it."""
_ERRNO_IN_RUST = re.compile(r"\(os error (\d+)\)")


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
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    with file:
        if not lock(file, folder):
            warnings.warn(f"{folder}: there are no locks on this file system. Let no two runs write there.", stacklevel=3)
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
    except Exception as error:
        if type(error) is Exception and _ERRNO_IN_RUST.search(str(error)):  # the tokenizers library's
            raise unwritable(path, error) from error
        raise


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A new folder to write into, which becomes ``path`` at the end; where that cannot be, ``path`` is as it was.

    Args:
        path: What it is to be.
        replace: Whether in place of a folder that is there.

    Raises:
        ConfigurationError: If another process is writing it.
        StorageError: If it cannot be written.
    """
    with writing(path), _beside(path) as beside:
        new = beside / "new"
        new.mkdir()
        yield new
        _finish(new)
        if replace and path.exists():
            path.rename(beside / "old")  # from here until the next line a kill leaves neither; whoever comes next mends it
        new.rename(path)
        _sync_names(path.parent)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for this process, empty; what a killed one had only taken away is ``path`` again."""
    beside = path.with_name(f".{path.name}{_UNFINISHED}")
    with _locked_in(beside, path):
        _put_back(path, beside)
        try:
            yield beside
        finally:
            _put_back(path, beside)
            shutil.rmtree(beside, ignore_errors=True)


def _locked_in(beside: Path, path: Path) -> IO[bytes]:
    """The lock of a folder, which is made again where another process removed it before it was locked.

    Raises:
        ConfigurationError: If another process has it.
        FileNotFoundError: If it cannot be made, as where its name is a link that leads nowhere.
    """
    for is_last in (*[False] * _TRIES, True):
        beside.mkdir(parents=True, exist_ok=True)
        with nullcontext() if is_last else suppress(FileNotFoundError):
            file = (beside / LOCK).open("ab")
            try:
                lock(file, path)
                if _is_there(file.fileno()):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
    raise FileNotFoundError(errno.ENOENT, "others remove it again and again", str(beside))


def _put_back(path: Path, beside: Path) -> None:
    if (beside / "old").exists() and not path.exists():
        (beside / "old").rename(path)
    for left in ("new", "old"):
        shutil.rmtree(beside / left, ignore_errors=True)


def _finish(folder: Path) -> None:
    """Have all of a folder on the disk, and for whom the umask says: what safetensors writes is for its owner alone."""
    mode = folder.stat().st_mode & 0o7777  # what the umask left of it
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def clear_unfinished(*folders: Path) -> None:
    """Remove what killed processes had begun to write in these folders, and put back what they had only taken away.

    What a living process is writing stays, and so does what cannot be removed.
    """
    for left in [left for folder in folders for left in folder.glob(f".*{_UNFINISHED}") if not left.is_symlink()]:
        is_folder = left.is_dir()
        with suppress(ConfigurationError, OSError), (left / LOCK).open("ab") if is_folder else left.open("r+b") as file:
            if not lock(file, left, patience=0.0) or not _is_there(file.fileno()):
                continue
            if is_folder:
                _put_back(left.with_name(left.name[1:].removesuffix(_UNFINISHED)), left)
                shutil.rmtree(left)
            else:
                left.unlink()


def _sync_names(folder: Path) -> None:
    """Have a folder's names on the disk: without them what was renamed may be gone with the machine."""
    with suppress(OSError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_there(handle: int) -> bool:
    """Whether an open file still has a name: before it was locked, another process may have removed it."""
    return os.fstat(handle).st_nlink > 0


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
    told = _ERRNO_IN_RUST.search(reason)
    full = getattr(error, "errno", int(told[1]) if told else errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # for whom the umask says
    try:
        with os.fdopen(handle, "wb") as file:
            has_lock = lock(handle, temporary)
            if not _is_there(handle):
                return _replace(path, data)
            file.write(data)
            file.flush()
            os.fsync(handle)
            if has_lock:
                temporary.replace(path)  # nobody takes it for a killed process's meanwhile
        if not has_lock:
            temporary.replace(path)  # closed: Windows renames no other
        _sync_names(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Add whole lines to a file.

    Raises:
        StorageError: If that cannot be; the file is then as it was, without half of a line that others would be glued to.
    """
    data = text.encode()
    with writing(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(end)
            raise


def drop_half_line(path: Path) -> None:
    """Cut off half of a last line, as a killed run leaves it: it is nothing to :func:`append` others to.

    Args:
        path: The file; it need not be there.

    Raises:
        StorageError: If it cannot be written.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    if (whole := content.rfind(b"\n") + 1) < len(content):
        with writing(path):
            os.truncate(path, whole)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON (:func:`as_json`), atomically."""
    write_atomically(path, as_json(value) + "\n")
