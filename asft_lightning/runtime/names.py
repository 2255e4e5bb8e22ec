"""Names that become parts of files, of metrics and of tables."""

import re

from asft_lightning.errors import ConfigurationError

_NAME = re.compile(r"\w[\w .,+=()-]{0,79}")


def is_name(name: object) -> bool:
    """Whether files, shells, tables and terminals can bear it."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name == name.strip()


def require_name(what: str, name: object) -> None:
    """Refuse a name that a file could not bear, or that a shell, a table or a terminal would read as something else.

    Raises:
        ConfigurationError: If it is none.
    """
    if not is_name(name):
        raise ConfigurationError(
            f"{what} must be letters, digits, spaces and any of _ . , + = ( ) -, from a letter or digit on and at most "
            f"80 of them, got {name!r:.100}. It names files and figures, too."
        )
