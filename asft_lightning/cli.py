"""The command line: one table of commands, each in a file of its own that is imported when it is asked for."""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "protect": ("protect", "fine-tune a model on your rows and keep it safe, in one line"),
        "chat": ("chat", "talk to what a run trained, and to what it was trained from"),
        "generate": ("generate", "a run's answers to a file of prompts"),
        "fit": ("fit", "train a model, and score it before, while and after"),
        "validate": ("fit", "the loss on held-out rows"),
        "test": ("fit", "score a model without training it"),
        "describe": ("describe", "the rows that a run would train on; takes fit's arguments"),
        "audit": ("audit", "what the aligned model says of the rows, without a run; takes fit's arguments"),
        "compare": ("compare", "run methods side by side from one file, and report"),
        "landscape": ("landscape", "how far weights can be moved before a model is no longer safe; figures and pictures"),
        "serve": ("serve", "a run's model behind Transformers' or vLLM's own server"),
        "export": ("export", "write a run's adapter, or the merged model, with a model card"),
        "project-adapter": ("project_adapter", "take a finished adapter back to the alignment direction (Safe LoRA)"),
        "wise": ("wise", "WISE's score of a folder of images, by a vision model behind a server"),
        "anchors": ("anchors", "build anchors as a file, show them, compare an adapter with them"),
        "configs": ("configs", "list the package's configs, and copy one to change it"),
        "init": ("init", "a folder to begin from: a plug-in with a judge, an anchor and a source of your own"),
        "env": ("env", "versions, devices and folders, for a report of a fault"),
        "sandbox": ("sandbox", "make the embedded pair anew"),
    }
)
"""{command: (its file in commands/, what it does)}."""

_LIGHTNING = ("fit", "validate", "test")
_OF_A_RUN = (*_LIGHTNING, "describe", "audit")
"""Commands that take all settings of a run."""
_ABOVE = "; the line above that says how to go on goes on from the last checkpoint, if there is one"
_KEPT = "; what is scored is kept, and the same command goes on"
_EXAMPLES = (
    "protect sandbox:aligned sandbox:benign",
    "fit --config models/qwen-2-7b-instruct --config data/agnews --config methods/asft "
    "--config scoring/refusals --config trainer/single",
)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``asft-lightning``; a mistake of the user or the machine ends in one line and status 2.

    Args:
        args: What follows the program's name; None for this process's own.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return
    if arguments[0] == "--version":
        sys.stdout.write(f"asft-lightning {_version()}\n")
        return
    from asft_lightning.runtime.few_bars import few_bars
    from asft_lightning.runtime.threads import wait_asleep

    few_bars()
    wait_asleep()
    from asft_lightning.runtime.exits import GO_ON, ending_in_one_line

    going_on = {**dict.fromkeys(_LIGHTNING, GO_ON), "protect": _ABOVE, "landscape": _KEPT}
    with ending_in_one_line(going_on.get(arguments[0], "")):
        _run(arguments)


def usage() -> str:
    """Every command with one line, and two examples."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: asft-lightning COMMAND [ARGUMENTS]",
            "",
            "Keep an aligned language model safe while you fine-tune it.",
            "",
            "commands:",
            *(f"  {name:{width}}  {about}" for name, (_, about) in COMMANDS.items()),
            "",
            "examples:",
            *(f"  asft-lightning {example}" for example in _EXAMPLES),
            "",
            "`asft-lightning COMMAND --help` says what a command takes. --config takes a file or a name, as",
            "`asft-lightning configs` lists them.",
            "",
        ]
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("asft-lightning")
    except PackageNotFoundError:  # run from its source
        return "of no release: it is not installed"


def _run(arguments: list[str]) -> None:
    from asft_lightning.errors import ConfigurationError

    command, *rest = with_own_spelling(arguments)
    if command not in COMMANDS:
        close = get_close_matches(command, COMMANDS, n=1)
        remedy = f"Did you mean {close[0]}?" if close else "Try asft-lightning --help."
        raise ConfigurationError(f"a command must be one of {', '.join(COMMANDS)}, got {command!r}. {remedy}")
    if command in _OF_A_RUN:
        from asft_lightning.commands.common_settings import asked_for, common_settings

        if asked_for(rest) == "first":
            sys.stdout.write(common_settings(command, COMMANDS[command][1]))
            return
        rest = ["--help"] if asked_for(rest) == "all" else rest
    module = import_module(f"asft_lightning.commands.{COMMANDS[command][0]}")
    if command in _LIGHTNING:
        module.run([command, *rest])
    elif command in ("describe", "audit"):
        module.run(rest)
    elif command == "configs" and not rest:
        module.list_configs()
    else:
        _run_function(command, module, rest)


def with_own_spelling(arguments: Sequence[str]) -> list[str]:
    """Options with underscores where they have dashes, and ``protect`` with λ by the name that others give it.

    >>> with_own_spelling(["protect", "chat", "rows.jsonl", "--batch-size=4", "--lambda", "3", "--data.where.my-column=1"])
    ['protect', 'chat', 'rows.jsonl', '--batch_size=4', '--lambda_reg', '3', '--data.where.my-column=1']
    """
    spelt = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--") and "." not in option:
            option = "--" + option[2:].replace("-", "_")
            option = "--lambda_reg" if (arguments[0], option) == ("protect", "--lambda") else option
        spelt.append(option + equals + value)
    return spelt


def _run_function(command: str, module: ModuleType, arguments: list[str]) -> None:
    """A command that is a function, or several: its parser follows from the signature."""
    from argparse import RawDescriptionHelpFormatter

    from jsonargparse import DefaultHelpFormatter, auto_cli

    from asft_lightning.runtime.named_configs import with_found_configs
    from asft_lightning.runtime.own_modules import make_named_importable
    from asft_lightning.runtime.plain_data import make_classes_where_they_belong
    from asft_lightning.runtime.short_errors import ShortErrors
    from asft_lightning.runtime.switches import switched_on

    arguments = with_found_configs(arguments)
    make_classes_where_they_belong()
    make_named_importable(arguments, arguments if command == "compare" else ())

    class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Examples stay lines, and docstrings' marks of code are no text."""

        def _split_lines(self, text: str, width: int) -> list[str]:
            return super()._split_lines(text.replace("``", ""), width)

    part = arguments[0] if arguments and arguments[0] in getattr(module, "PARTS", ()) else None
    examples = [f"  asft-lightning {example}" for example in getattr(module, "EXAMPLES", ())]
    function = _function(module, part)
    auto_cli(
        function,
        args=switched_on(arguments if part is None else arguments[1:], function),
        config_help="A YAML file of what follows; any number of them, the package's by name.",
        prog=f"asft-lightning {command}" + ("" if part is None else f" {part}"),
        epilog="\n".join(["examples:", *examples]),
        formatter_class=Formatter,
        parser_class=ShortErrors,
    )


def _function(module: ModuleType, part: str | None) -> Any:
    """What a command does: a function, or of one with several parts that part's alone, or all by name."""
    parts: Sequence[str] = getattr(module, "PARTS", ())
    functions = {name: import_module(f"{module.__name__}.{name}").COMMAND for name in ([part] if part else parts)}
    if part is not None:
        return functions[part]
    return functions or module.COMMAND
