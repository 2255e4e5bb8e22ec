"""Names that become parts of files, of metrics and of tables."""

import re

from asft_lightning.errors import ConfigurationError

_NAME = re.compile(r"\w[\w .,+=()-]{0,79}")


def require_name(what: str, name: object) -> None:
    """Refuse a name that a file could not bear, or that a shell, a table or a terminal would read as something else.

    Raises:
        ConfigurationError: If it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name != name.strip():
        raise ConfigurationError(
            f"{what} must be letters, digits, spaces and any of _ . , + = ( ) -, from a letter or digit on and at most "
            f"80 of them, got {name!r:.100}. It names files and figures, too."
        )
