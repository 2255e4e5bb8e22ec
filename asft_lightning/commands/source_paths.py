"""``--data.benign FILE`` on the command line, for a source of that path and no other settings."""

import inspect
import json
from collections.abc import Sequence

from asft_lightning.data import LabelledDataModule, MixtureDataModule

_SOURCES = {
    name
    for module in (MixtureDataModule, LabelledDataModule)
    for name, parameter in inspect.signature(module).parameters.items()
    if "Source" in str(parameter.annotation)
}
"""The arguments of data that are sources."""


def with_source_paths(arguments: Sequence[str]) -> list[str]:
    """Arguments with a source in place of each path that stands for one; what is YAML stays.

    >>> with_source_paths(["--data.benign", "my.jsonl", "--data.harmful=null"])
    ['--data.benign', '{"path": "my.jsonl"}', '--data.harmful=null']
    """
    resolved = list(arguments)
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not _is_source(option):
            continue
        if equals:
            resolved[i] = f"{option}={_source(value)}"
        elif i + 1 < len(arguments):
            resolved[i + 1] = _source(arguments[i + 1])
    return resolved


def _is_source(option: str) -> bool:
    prefix, _, name = option.rpartition(".")
    return prefix in ("--data", "--data.init_args") and name in _SOURCES


def _source(value: str) -> str:
    is_yaml = value.startswith(("{", "[", "-")) or ": " in value or value in ("null", "")
    return value if is_yaml else json.dumps({"path": value}, ensure_ascii=False)
