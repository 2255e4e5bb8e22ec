"""An adapter's configuration that comes from elsewhere: PEFT would import what it names, and match what it says for ever."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from asft_lightning.errors import ConfigurationError

_PATTERNS = ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_pattern", "modules_to_save")

_MOST_REPEATS = 4
_LONGEST = 1000
_MOST_WITH_REPEATS = 100
"""Patterns of one setting that repeat anything: each is tried on each of the model's modules."""


def require_harmless(config: Any, adapter: str) -> None:
    """Refuse modules to import, and regular expressions whose matching may take exponential time.

    A match backtracks that long only where a group is repeated; with few repeats of single characters it takes a moment.

    Args:
        config: A PEFT configuration.
        adapter: Where it comes from.

    Raises:
        ConfigurationError: If there is one.
    """
    if getattr(config, "megatron_config", None):
        raise ConfigurationError(
            f"{adapter} names a Python module to import, {getattr(config, 'megatron_core', None)!s:.100}, which is not "
            "done. Give an adapter without megatron_config."
        )
    for name in _PATTERNS:
        repeating = [pattern for pattern in _patterns(getattr(config, name, None)) if re.search(r"[*+{]", pattern)]
        if len(repeating) > _MOST_WITH_REPEATS:
            raise ConfigurationError(
                f"an adapter may have {_MOST_WITH_REPEATS} patterns with *, + or {{, and {name} of {adapter} has "
                f"{len(repeating)}. Name the modules in their place."
            )
        for pattern in repeating:
            repeats = len(re.findall(r"[*+{]", pattern))
            # Flags, as of the verbose mode, would hide what is repeated.
            is_hidden = re.search(r"\)\s*[*+{]|\(\?(?!:)", pattern)
            if is_hidden or repeats > _MOST_REPEATS or len(pattern) > _LONGEST:
                raise ConfigurationError(
                    f"a pattern of an adapter must repeat no group, have no (? but (?:, and at most {_MOST_REPEATS} of *, + "
                    f"and {{, and {name} of {adapter} has {pattern!r:.100}, which may take for ever. Name modules instead."
                )


def _patterns(value: Any) -> Iterator[str]:
    parts = [value] if isinstance(value, str) else value if isinstance(value, Mapping | list | set | tuple) else ()
    return (part for part in parts if isinstance(part, str))
