"""Images by the ids of their prompts, and as a server is sent them."""

import base64
from collections.abc import Iterable
from pathlib import Path

from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.runtime.files import user_path

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def find_images(folder: str, ids: Iterable[int]) -> dict[int, Path]:
    """The images ``ID.png``, ``.jpg``, ``.jpeg`` or ``.webp`` of a folder, as far as they are there.

    Raises:
        ConfigurationError: If there is no such folder.
        DataError: If it has an image of none of the ids, or two of one.
    """
    path = user_path(folder)
    if not path.is_dir():
        raise ConfigurationError(f"images must be a folder, and {path} is none. Name that of the images 1.png, 2.png, …")
    found: dict[int, Path] = {}
    for i in ids:
        images = [file for ending in _ENDINGS if (file := path / f"{i}{ending}").is_file()]
        if len(images) > 1:
            raise DataError(f"a prompt has one image, got {' and '.join(map(str, images))}. Take one away.")
        if images:
            found[i] = images[0]
    if not found:
        raise DataError(f"{path} must hold the prompts' images, and has none. Name each by its prompt's id, e.g. 1.png.")
    return found


def read_image(path: Path) -> bytes:
    """An image file.

    Raises:
        DataError: If it cannot be read, or is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} must be an image, and cannot be read ({error.strerror}). Allow it, or remove it."
        ) from error
    _media_type(content, path)
    return content


def data_url(path: Path) -> str:
    """An image within the request itself: no server has to fetch it.

    Raises:
        DataError: As :func:`read_image`.
    """
    content = read_image(path)
    return f"data:{_media_type(content, path)};base64,{base64.b64encode(content).decode()}"


def _media_type(content: bytes, path: Path) -> str:
    """By what is in the file: its name may be wrong, and a server would say no more than that it cannot read it."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    raise DataError(f"{path} must be a PNG, JPEG or WebP image, and begins with {content[:8]!r}. Make it anew.")
