"""Switches on the command line: ``--merged`` for ``--merged=true``."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Command = Callable[..., object]


def switched_on(arguments: Sequence[str], command: Command | Mapping[str, Command]) -> list[str]:
    """Arguments with ``=true`` behind options of yes or no that stand alone.

    Args:
        arguments: Of the command line.
        command: A function whose parameters are the options, or several by name.
    """
    functions = command.values() if isinstance(command, Mapping) else (command,)
    switches = {f"--{name}" for function in functions for name in _switches(function)}
    following = [*arguments[1:], ""]
    return [
        f"{argument}=true" if argument in switches and following[i].lower() not in ("true", "false") else argument
        for i, argument in enumerate(arguments)
    ]


def _switches(function: Command) -> list[str]:
    parameters: Mapping[str, Any] = inspect.signature(function).parameters
    return [name for name, parameter in parameters.items() if parameter.annotation is bool]
