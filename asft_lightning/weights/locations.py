"""Where a model lives: a local directory, the embedded sandbox, or the hub; one resolution for all of them."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import user_path

SANDBOX = "sandbox:"
"""Prefix of the embedded default's parts, e.g. ``sandbox:aligned`` (no hub id can hold a colon)."""

_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
_PICKLED = ["*.bin", "*.bin.index.json"]


def resolve(location: str) -> str:
    """``sandbox:PART`` as the path of that part of the shipped pair, ``~`` as the home folder; anything else as it is."""
    if location.startswith("~"):
        return str(user_path(location))
    if not location.startswith(SANDBOX):
        return location
    from asft_lightning.sandbox.parts import sandbox_path  # only who uses the sandbox pays for importing it

    return str(sandbox_path(location.removeprefix(SANDBOX)))


def resolve_folder(location: str, revision: str | None = None) -> Path:
    """The local folder of a checkpoint: a directory, a ``sandbox:`` part, or a hub id, whose weights are downloaded.

    Raises:
        ConfigurationError: If the id is gated, absent or out of reach.
    """
    folder = Path(resolve(location))
    if folder.is_dir():
        return folder
    try:
        snapshot = Path(snapshot_download(location, revision=revision, allow_patterns=["*.json", *_WEIGHTS]))
        if not any(snapshot.glob("*.safetensors")):
            snapshot_download(location, revision=revision, allow_patterns=_PICKLED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise unreachable(location, error) from error
    return snapshot


def unreachable(location: str, error: Exception, local: str = "the local path") -> ConfigurationError:
    """The error for a model or data set that cannot be had: which, why, and what to do, e.g. to give ``local`` instead."""
    if location.startswith((".", "/", "~")) and not user_path(location).exists():
        return ConfigurationError(
            f"{location!r} must be a local path or a hub id within reach, and there is no such path. Is it misspelt? Give "
            f"{local}, or a hub id."
        )
    said = " ".join(str(error).split()).replace(str(user_path(location).resolve()), location)  # a long path hides the rest
    reason = f"it could not be had ({type(error).__name__}: {said[:120]})"
    if user_path(location).is_dir():
        return ConfigurationError(f"{location!r} must be a folder with files to read, and {reason}. Give {local}.")
    if isinstance(error, GatedRepoError) or "gated" in str(error).lower():
        reason = "it is gated"
    return ConfigurationError(
        f"{location!r} must be a local path or a hub id within reach, and {reason}. Accept its licence on the hub and run "
        f"`hf auth login`; or download it where there is a network and give {local}."
    )
