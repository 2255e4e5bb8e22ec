"""``asft-lightning anchors show``: a file of anchors, for people; nothing is loaded but that."""

from pathlib import Path

from asft_lightning.anchors import AnchorSet
from asft_lightning.anchors.report import spectrum_picture
from asft_lightning.commands.ways_on import after_anchors
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.terminal import say


def show(anchors: str, png: str | None = None) -> None:
    """Print the spectrum of each module and what it means.

    Args:
        anchors: A file of anchors, or a folder or hub repository with an anchors.safetensors.
        png: Where to write a picture of the spectra as well.
    """
    picture = None if png is None else writable(png)
    show_with_picture(AnchorSet.load(anchors), picture)
    say(*after_anchors(anchors))


COMMAND = show


def writable(name: str) -> Path:
    """The file of this name, before anything is computed: one that cannot be written must not cost a build."""
    path = user_path(name)
    if path.is_dir() or not path.suffix:
        raise ConfigurationError(f"{path} must be the name of a file with its ending, .safetensors or .png. Add one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error}). Choose another folder.") from error
    return path


def show_with_picture(anchors: AnchorSet, png: Path | None) -> None:
    """Print anchors, and draw them where a file is given."""
    say(str(anchors))
    if png is not None:
        spectrum_picture(anchors.terms, png)
        say(f"drawn in {png}")
