"""A mistake in arguments or configs, said in a line: where it stands, what was expected, and what may have been meant."""

import difflib
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from asft_lightning.errors import AsFTError, ConfigurationError, error_of_ours
from asft_lightning.runtime.called import what_is_missing

_SAYS_NOTHING = re.compile(
    r"Subtypes:|Errors:|Given value|Does not validate|Not a valid subclass|Subclass types expect|-?\s*a (class|dict) "
    r"|Expected an? <class '[^']*'>$|Expected a path but|Expected an instantiatable class, but \S* is a protocol"
)
"""How lines begin that jsonargparse adds about types: each that was tried, whether or not it was meant."""

_PLAIN_TYPES = re.compile(r"Subtypes: \[(?P<types>[^\n]*)\]\n(?!.*Subtypes:).*?Given value: (?P<given>[^\n]*)", re.DOTALL)
"""The innermost argument's."""
_UNKNOWN = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
_NO_PROTOCOL = re.compile(r"Import path(?: (\S+))? does not implement protocol (\w+)")
_GIVEN = re.compile(r"Given value: ([\w.]+)$")
_CANNOT_BE_MADE = re.compile(r"Problem with given class_path '([^']*)':\s*([^\n]+)")
_REASONS = 6
"""How many of what is left are told; the first are the outermost."""


class ShortErrors(ArgumentParser):
    """A parser that raises what is wrong instead of printing its usage, which for ``fit`` has hundreds of lines."""

    help_option = "--help"
    """How to see all that it takes."""

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Make the classes that a config names.

        Raises:
            ConfigurationError: If a class of others cannot be made, e.g. a logger whose package is not installed.
        """
        try:
            made: Namespace = super().instantiate(*args, **kwargs)
        except ValueError as error:
            if (mistake := _of_anothers_class(error)) is not None:
                raise mistake from error
            raise
        return made

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the mistake.

        Raises:
            ConfigurationError: That names the argument, what it needs, and where to look.
        """
        if not self.exit_on_error:  # a parser within the parser, which tries what an argument could be
            super().error(message, ex)
        command = f"{self.prog.replace(' [options]', '')} {self.help_option}"
        places = [action.dest for action in self._actions if not action.option_strings]
        raise _mistake(message, ex, list(self._option_string_actions), places, command) from None


def _mistake(message: str, error: BaseException | None, options: list[str], places: list[str], command: str) -> AsFTError:
    if (ours := error_of_ours(error)) is not None:
        return ours
    if unknown := _UNKNOWN.search(message):
        given = unknown[1].split()[0]
        near = difflib.get_close_matches(given.split("=")[0], options, n=2, cutoff=0.75)
        remedy = f"Did you mean {' or '.join(near)}?" if near else f"`{command}` lists them."
        if given.split("=")[0].removeprefix("--") in places:  # as other programs have it
            line = " ".join([command.partition(" --help")[0], *(place.upper() for place in places)])
            remedy = f"It is given by its place, without a name: {line}."
        return ConfigurationError(f"there is no argument {given}. {remedy}")
    return ConfigurationError(f"{_in_one_line(message)}. `{command}` says what each argument takes.")


def _of_anothers_class(error: BaseException) -> ConfigurationError | None:
    """What a class of a third party said when it was made; None of an error of ours, or in a class of ours."""
    told = _CANNOT_BE_MADE.findall(str(error))
    if not told or told[-1][0].startswith("asft_lightning.") or error_of_ours(error) is not None:
        return None
    path, reason = told[-1]
    return ConfigurationError(f"{path} cannot be made: {reason.rstrip('.')}. Mend its settings, or leave it out.")


def _in_one_line(message: str) -> str:
    r"""The tree of reasons without the types that were not meant.

    >>> _in_one_line("Expected a <class 'int'>. Got value: x")
    'expected int, got x'
    >>> _in_one_line("\n".join(['Parser key "lr":', "Subtypes: [<class 'float'>, <class 'NoneType'>]", "Given value: fast"]))
    'lr: expected float or null, got fast'
    """
    message = _NO_PROTOCOL.sub(lambda found: what_is_missing(found[1] or _given(message), found[2]), message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    told = [line.rstrip(".") for line in lines if line and not _SAYS_NOTHING.match(line)]
    text = " ".join(dict.fromkeys(told[:_REASONS])).rstrip(":") or message.strip().splitlines()[0]
    if told and told[-1].startswith("Parser key") and (plain := _PLAIN_TYPES.search(message)):
        text = f"{text}: expected {_type_names(plain['types'])}, got {plain['given']}"
    for found, said in (
        (r'Parser key "([^"]*)"', r"\1"),
        (r"Problem with given class_path", "class_path"),
        (r"Expected an? <class '([^']*)'>\. Got value", r"expected \1, got"),
        (r"Expected a dot import path string: (.*)", r"there is no class \1: write its path, as my_module.MyClass"),
        (r"got: ", "got "),
    ):
        text = re.sub(found, said, text)
    return text


def _given(message: str) -> str:
    """What stood in the place of an argument."""
    found = _GIVEN.search(message)
    return found[1] if found else ""


def _type_names(subtypes: str) -> str:
    """As a user writes them.

    >>> _type_names("list[str], <class 'NoneType'>")
    'list[str] or null'
    """
    names = re.sub(r"<class '([^']*)'>", r"\1", subtypes).replace("NoneType", "null")
    return " or ".join(names.split(", "))
