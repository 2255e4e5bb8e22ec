"""YAML that others may have written: read as plain data, and not before it is known how much it comes to."""

from pathlib import Path
from typing import Any

import yaml

from asft_lightning.errors import ConfigurationError

_MOST_VALUES = 100_000
"""With aliases written out; a config of ours has some hundreds. Nine lines of aliases can come to gigabytes."""

_DEEPEST = 100


def read_yaml(path: Path, remedy: str) -> Any:
    """The content of a file, as plain data.

    Args:
        path: The file.
        remedy: What to do where it cannot be read.

    Raises:
        ConfigurationError: If it cannot be read, is no YAML, or is far too large.
    """
    try:
        text = path.read_text(encoding="utf-8")
        require_bounded(text, str(path))
        return yaml.safe_load(text)
    except ConfigurationError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigurationError(f"{path} cannot be read as YAML ({reason}). {remedy}") from error


def require_bounded(text: str, where: str) -> None:
    """Refuse YAML that comes to too much; what is no YAML at all is left to who reads it.

    Raises:
        ConfigurationError: If it does.
    """
    try:
        is_bounded = _is_bounded(text)
    except yaml.YAMLError:
        return
    if not is_bounded:
        raise ConfigurationError(
            f"{where} must have at most {_MOST_VALUES} values with its aliases written out, nested at most {_DEEPEST} deep, "
            "and has more. Is it a config? Write it without aliases."
        )


def _is_bounded(text: str) -> bool:
    """Whether it is small and shallow enough, by its events: nothing is built."""
    values, sizes = 0, dict[str, int]()
    begun: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, yaml.SafeLoader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            values += sizes.get(anchor or "", _MOST_VALUES + 1)  # one that is not closed yet holds itself
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            sizes |= {anchor: 1} if anchor else {}
        elif isinstance(event, yaml.CollectionStartEvent):
            values += 1
            begun.append((anchor, values - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = begun.pop()
            sizes |= {name: values - before} if name else {}
        if values > _MOST_VALUES or len(begun) > _DEEPEST:
            return False
    return True
