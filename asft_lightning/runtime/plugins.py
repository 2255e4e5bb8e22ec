"""Plug-ins: installed packages that add to this one by an entry point, imported when what they may add is asked for."""

from functools import cache
from importlib.metadata import entry_points

from asft_lightning.errors import ConfigurationError

GROUP = "asft_lightning.plugins"
"""Of entry points; each names a module, which registers what it adds when it is imported."""


@cache
def load_plugins() -> None:
    """Import every plug-in, once; nothing that was not installed.

    Raises:
        ConfigurationError: If one cannot be imported; names it.
    """
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # whatever another's module does
            raise ConfigurationError(
                f"the plug-in {point.name} must be importable as {point.value}, and is not ({type(error).__name__}: "
                f"{error}). Mend or uninstall it."
            ) from error
