"""Pictures need matplotlib, which is an extra: the one place that says so."""

from importlib.util import find_spec

from asft_lightning.errors import ConfigurationError


def require_matplotlib() -> None:
    """Refuse to draw without it, before anything was computed for the picture.

    Raises:
        ConfigurationError: If it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigurationError('a picture needs matplotlib. Run: pip install "asft-lightning[plot]"')
