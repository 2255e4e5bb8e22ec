"""Placeholders: ``$NAME`` in a comparison's settings and lists of configs stands for the value of an axis."""

from collections.abc import Iterable, Mapping
from typing import Any


def filled(value: Any, axes: Mapping[str, Any]) -> Any:
    """``value`` with each text that is ``$NAME`` replaced by that axis's value; other names stay.

    >>> filled({"a": ["$x", "$y", "5$"]}, {"x": 1})
    {'a': [1, '$y', '5$']}
    """
    if isinstance(value, Mapping):
        return {key: filled(part, axes) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, axes) for part in value]
    return axes.get(value[1:], value) if is_name(value) else value


def names(value: Any) -> set[str]:
    """The axes that a value names.

    >>> sorted(names({"a": ["$x", {"b": "$y"}], "c": "$5"}))
    ['x', 'y']
    """
    parts: Iterable[Any] = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return {value[1:]} if is_name(value) else set().union(*map(names, parts))


def is_name(value: Any) -> bool:
    """Whether it stands for an axis."""
    return isinstance(value, str) and value.startswith("$") and value[1:].isidentifier()


def merged(common: Mapping[str, Any], specific: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings over those of all; lists that are added to (``callbacks+``) are added up."""
    added = {key: [*common[key], *specific[key]] for key in common.keys() & specific.keys() if key.endswith("+")}
    return {**common, **specific, **added}
