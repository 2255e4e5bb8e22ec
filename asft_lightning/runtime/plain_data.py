"""Settings that are data: no class of theirs is made, and no module imported, whatever names stand in them."""

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    PlainData: TypeAlias = dict[str, Any]
else:
    PlainData = dict  # what the config's parser sees: under Any it would look a ``class_path`` up
"""A mapping in a config that stays one."""


def make_classes_where_they_belong() -> None:
    """Have a config's ``class_path`` made into an object only where the argument's type is a class.

    Third parties' arguments of type ``Any`` then get the mapping itself. Names that run commands or load pickles
    (:mod:`subprocess`, :mod:`os`, :mod:`pickle`, … by jsonargparse's list) are refused everywhere.
    """
    from jsonargparse import set_parsing_settings

    set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])


def texts_of(settings: Any) -> list[str]:
    """Every text and path in settings, however deep.

    >>> texts_of({"a": ["x", {"b": "y"}], "c": 1, "d": None})
    ['x', 'y']
    """
    if isinstance(settings, Mapping | Namespace):
        return texts_of(list(vars(settings).values() if isinstance(settings, Namespace) else settings.values()))
    if isinstance(settings, list | tuple):
        return [text for part in settings for text in texts_of(part)]
    return [str(settings)] if isinstance(settings, str | os.PathLike) else []
