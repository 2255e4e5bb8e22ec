"""The package's own configs, found by name wherever it is installed; a path that exists wins."""

import re
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.yaml_files import require_bounded

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
"""The folder of the package's own configs."""


def config_names() -> list[str]:
    """The names of all configs of the package, e.g. ``methods/asft``."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The file that a path or a name stands for.

    Args:
        name: A YAML file, or the name of one of the package's own, e.g. ``quickstart`` or ``methods/asft``.

    Raises:
        ConfigurationError: If there is neither; says what there is.
    """
    path = user_path(name)
    if path.exists() and not path.is_dir():  # a pipe will do
        return path
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    names = config_names()
    if plain in names:
        return CONFIGS / f"{plain}.yaml"
    close = get_close_matches(plain, names, n=3, cutoff=0.5)
    of_kind = [known for known in names if known.partition("/")[0] == plain.partition("/")[0]] or names
    raise ConfigurationError(
        f"a config must be a YAML file or one of this package's own, and {name!r} is neither. "
        + (f"Did you mean {' or '.join(close)}? " if close else "")
        + f"There are {', '.join(_in_short(of_kind))}; `asft-lightning configs` says what each is."
    )


def with_found_configs(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with the file of each ``--config`` or ``-c`` in place of its name; YAML itself stays."""
    resolved = list(arguments)
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config", "-c") and equals:
            resolved[i] = f"{option}={_file_or_yaml(value)}"
        elif argument in ("--config", "-c") and i + 1 < len(arguments):
            resolved[i + 1] = _file_or_yaml(arguments[i + 1])
    return resolved


def _file_or_yaml(value: str) -> str:
    is_yaml = ": " in value or "\n" in value or value.startswith("{")
    if is_yaml:
        require_bounded(value, "a config")
        return value
    path = find_config(value)
    with suppress(OSError, UnicodeError):  # who reads it says so
        require_bounded(path.read_text(encoding="utf-8") if path.is_file() else "", value)  # a pipe can be read but once
    return str(path)


def about(name: str) -> str:
    """What a config says of itself: the first sentence of the comment that it begins with."""
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.?!]) ", comment)[0]


def _in_short(names: Sequence[str]) -> list[str]:
    """``folder/{a,b}`` in place of each of a folder's names."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, stem = name.rpartition("/")
        folders.setdefault(folder, []).append(stem)
    alone = folders.pop("", [])
    return [*alone, *(f"{folder}/{{{','.join(stems)}}}" for folder, stems in folders.items())]
