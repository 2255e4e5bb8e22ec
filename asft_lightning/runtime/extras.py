"""Packages that are extras: the one place that says how to get one."""

from importlib.util import find_spec

from asft_lightning.errors import ConfigurationError

_EXTRA_OF = {"matplotlib": "plot", "openai": "endpoint", "bitsandbytes": "4bit"}


def is_installed(package: str) -> bool:
    """Whether an optional package is there."""
    return find_spec(package) is not None


def require_extra(package: str, purpose: str) -> None:
    """Refuse what needs an optional package before anything is computed for it.

    Args:
        package: Its name: ``matplotlib``, ``openai`` or ``bitsandbytes``.
        purpose: What needs it, e.g. ``a picture``.

    Raises:
        ConfigurationError: If it is not installed.
    """
    if not is_installed(package):
        raise ConfigurationError(
            f'{purpose} needs {package}, which is not installed. Run: pip install "asft-lightning[{_EXTRA_OF[package]}]"'
        )
