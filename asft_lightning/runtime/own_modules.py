"""Modules of the working directory, importable where the command line or a config names them, and not otherwise.

The console script has not the working directory on its path, and must not have all of it: a library that looks whether some
package is installed would run a file of that name in a downloaded folder that somebody works in.
"""

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_DOTTED = re.compile(r"(?<![\w./-])([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)+")
"""What may be a class with its module; the first part is the module or its package."""


class _NamedModules:
    """Finds modules of these names in a folder, after everything else has been looked through.

    From the first that is found the folder is on the path, so that the user's files can import one another.
    """

    def __init__(self, folder: Path, names: frozenset[str]) -> None:
        self._folder, self._names = str(folder), names

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Python's hook."""
        if path is not None or name not in self._names:
            return None
        spec = PathFinder.find_spec(name, [self._folder])
        if spec is not None and self._folder not in sys.path:
            sys.path.append(self._folder)
        return spec


def make_named_importable(arguments: Iterable[str], configs: Collection[str] = ()) -> None:
    """Have the modules found that stand in the working directory and are named as ``my_module.MyClass``.

    Args:
        arguments: Of the command line. What stands in a file that follows ``--config`` counts as well; in a file of data it
            does not: who wrote that has not been asked.
        configs: Those of the arguments that are such files by their place.
    """
    names = frozenset(found[1] for text in _texts(arguments, configs) for found in _DOTTED.finditer(text))
    others = [finder for finder in sys.meta_path if not isinstance(finder, _NamedModules)]
    sys.meta_path[:] = [*others, _NamedModules(Path.cwd(), names)]


def _texts(arguments: Iterable[str], configs: Collection[str]) -> Iterator[str]:
    """The values on the command line, and the text of those that are configs."""
    before = ""
    for argument in arguments:
        option, equals, given = argument.partition("=")
        value = given if equals and option.startswith("-") else argument
        is_config = (option if equals else before) == "--config" or argument in configs
        if is_config and Path(value).is_file():
            yield Path(value).read_text(encoding="utf-8", errors="replace")
        elif not value.startswith("--"):
            yield value
        before = argument
