"""A comparison from its YAML."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from asft_lightning.comparison.spec import Comparison
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.named_configs import find_config
from asft_lightning.runtime.yaml_files import read_yaml

T = TypeVar("T")


def load_comparison(file: str | Path) -> Comparison:
    """Read a comparison.

    Raises:
        ConfigurationError: If it is no such file, or says what a comparison cannot.
    """
    path = find_config(str(file))
    return _made(Comparison, read_yaml(path, "docs/comparing.md says what it holds."), str(path))


def _made(kind: type[T], content: Any, where: str) -> T:
    """One of the classes above from plain data; by hand, since settings hold class paths that a parser would instantiate."""
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where} must be a mapping, got {content!r}. docs/comparing.md says what it holds.")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := [key for key in content if key not in known]:
        raise ConfigurationError(f"{where} may have {', '.join(known)}, got {unknown[0]!r}. Is it misspelt?")
    required = [key for key, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    if missing := [key for key in required if key not in content]:
        raise ConfigurationError(f"{where} must have {missing[0]!r}. docs/comparing.md says what it is.")
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type says, a mapping of classes and an optional one included."""
    kinds: tuple[Any, ...] = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind = kinds[0]
    if is_dataclass(kind):
        return _made(kind, value, where)  # type: ignore[arg-type]
    origin: type = get_origin(kind) or kind
    allowed = (int, float) if origin is float else (origin,)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ConfigurationError(f"{where} must be a {origin.__name__}, got {value!r}. docs/comparing.md has an example.")
    if isinstance(value, dict) and (unnamed := [name for name in value if not isinstance(name, str)]):
        raise ConfigurationError(f"{where} must have names of text, got {unnamed[0]!r}. Put it in quotes.")
    inner = get_args(kind)[-1:]
    if isinstance(value, list) and inner != (Any,):
        return [_value(inner[0], part, where) for part in value]
    if isinstance(value, dict) and inner != (Any,):
        return {name: _value(inner[0], part, f"{where}.{name}") for name, part in value.items()}
    return value
