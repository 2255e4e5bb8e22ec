"""Arguments of ``fit`` that the parser would not take as they are meant, written as it does."""

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


def as_parsed(arguments: Sequence[str]) -> list[str]:
    """Arguments with a source in place of a path that stands for one, and a mapping in place of a nested name's ``null``.

    >>> as_parsed(["--data.benign", "my.jsonl", "--data.harmful=null"])
    ['--data.benign', '{"path": "my.jsonl"}', '--data.harmful=null']
    >>> as_parsed(["--model.init_args.answers.harmless=null"])
    ['--model={"init_args": {"answers": {"harmless": null}}}']
    """
    parsed: list[str] = []
    for argument in arguments:
        before = parsed[-1] if parsed else ""
        option, equals, value = argument.partition("=")
        if _is_nested(before) and argument == "null":
            parsed[-1] = _null(before)
        elif _is_nested(option) and value == "null":
            parsed.append(_null(option))
        elif _is_source(option) and equals:
            parsed.append(f"{option}={_source(value)}")
        else:
            parsed.append(_source(argument) if _is_source(before) else argument)
    return parsed


def _is_source(option: str) -> bool:
    prefix, _, name = option.rpartition(".")
    return prefix in ("--data", "--data.init_args") and name in _SOURCES


def _source(value: str) -> str:
    is_yaml = value.startswith(("{", "[", "-")) or ": " in value or value in ("null", "")
    return value if is_yaml else json.dumps({"path": value}, ensure_ascii=False)


def _is_nested(option: str) -> bool:
    """Whether it names a setting of an argument of the model or the data, not the argument itself."""
    part, *names = option.removeprefix("--").split(".")
    is_part = option.startswith("--") and "=" not in option and part in ("model", "data")
    return is_part and sum(name != "init_args" for name in names) > 1


def _null(option: str) -> str:
    """The setting in a mapping: given by its name, ``null`` is no value to jsonargparse."""
    part, *names = option.removeprefix("--").split(".")
    value = "null"
    for name in reversed(names):
        value = f"{{{json.dumps(name)}: {value}}}"
    return f"--{part}={value}"
