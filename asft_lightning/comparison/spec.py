"""Comparison: what one YAML says about methods, what varies, and how they are tuned."""

import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.named_configs import find_config
from asft_lightning.runtime.names import require_name
from asft_lightning.runtime.yaml_files import read_yaml

T = TypeVar("T")

_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")

SEED, POISON = "seed", "poison_ratio"
"""Axes with a meaning of their own: the mean is taken over seeds, and tables and pictures are laid out by poison ratio."""


@dataclass(frozen=True)
class FirstStep:
    """A run that comes before a method's own, which gets its adapter's folder as ``$first``; the same is run once.

    Args:
        configs: Config files, after the comparison's.
        settings: Settings by their dotted names, over the comparison's.
    """

    configs: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Args:
        configs: Config files, after the comparison's.
        settings: Settings by their dotted names, over the comparison's; what ends in ``+`` adds to a list. ``$NAME`` stands
            for the value of an axis.
        axes: {name: values} that this method alone is compared at.
        tune: {name: values} of which one setting is chosen on the tuning seeds; of several, each with each.
        first: What is run before, e.g. the harmful fine-tuning of AsFT-Alt.
    """

    configs: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    tune: dict[str, list[Any]] = field(default_factory=dict)
    first: FirstStep | None = None


@dataclass(frozen=True)
class Tuning:
    """How a method's setting is chosen: the lowest mean HS among those whose mean FA is close to the method's best.

    Args:
        axes: {name: values} of the tuning runs; ``seed`` must have none of the reported seeds.
        budget: Settings that a method may have at most.
        margin: How far below the method's best mean FA a setting's may lie, in points of percent.
    """

    axes: dict[str, list[Any]]
    budget: int = 3
    margin: float = 2.0


@dataclass(frozen=True)
class Around:
    """Further values of axes, one factor at a time: where one has such a value, the others have those of the comparison.

    Args:
        axes: {name: values} beside those of the comparison's axes of these names.
        at: {name: values} for the others, where not all of the comparison's are wanted.
    """

    axes: dict[str, list[Any]]
    at: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Args:
        methods: The methods by name.
        axes: {name: values} that settings name as ``$NAME``; ``seed`` among them. A method varies along the axes that its
            settings name.
        output: Folder of the runs and of the report.
        configs: Config files of every run, by path or by name.
        settings: Settings of every run, by their dotted names.
        around: Further values of axes, one factor at a time.
        default_method: The one that is recommended, marked in the report.
        tuning: How methods with ``tune`` are tuned.
        jobs: Runs at once; null for one a core, or one where there is a GPU.
        threads: CPU threads a run.
    """

    methods: dict[str, Method]
    axes: dict[str, list[Any]]
    output: str
    configs: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    around: Around | None = None
    default_method: str | None = None
    tuning: Tuning | None = None
    jobs: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what could not be run, or not be reported, before anything is."""
        self._check_texts()
        if not self.methods:
            raise ConfigurationError("a comparison needs methods, got none. Name at least one under `methods`.")
        if not self.axes.get(SEED):
            raise ConfigurationError(f"axes must have `{SEED}`, over which means are taken, got {list(self.axes)}. Add it.")
        if self.threads < 1 or (self.jobs is not None and self.jobs < 1):
            raise ConfigurationError(f"jobs and threads must be 1 or more, got {self.jobs} and {self.threads}.")
        if self.default_method is not None and self.default_method not in self.methods:
            raise ConfigurationError(
                f"default_method must be one of the methods, {', '.join(self.methods)}, got {self.default_method!r}. "
                "Name one of them, or leave it out."
            )
        if self.around is not None:
            self._check_around(self.around)
        for name, method in self.methods.items():
            self._check_axes(name, method)
            if method.tune:
                self._check_tuning(name, method)

    @property
    def folder(self) -> Path:
        """``output``, wherever the home folder is."""
        return user_path(self.output)

    def _check_texts(self) -> None:
        """Names lead out of no folder, and what is written into the report holds no password."""
        if _PASSWORD.search(repr(self)):
            raise ConfigurationError(
                "a comparison's settings stand in its report and in the logs of its runs, and an address among them has a "
                "password, which is not shown. Name an environment variable in its place, e.g. an endpoint's api_key_env."
            )
        for name in self.methods:
            require_name("a method's name", name)

    def _check_axes(self, name: str, method: Method) -> None:
        every = [("axes", self.axes), (f"{name}.axes", method.axes), (f"{name}.tune", method.tune)]
        for where, axes in every:
            if bad := [axis for axis, values in axes.items() if not values or len(set(map(str, values))) < len(values)]:
                raise ConfigurationError(f"an axis needs values, each once, and {where}.{bad[0]} has {axes[bad[0]]}.")
        groups = [set(axes) for _, axes in every]
        if twice := (groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2]):
            raise ConfigurationError(
                f"an axis has one place, and {min(twice)!r} of {name} has several among axes, {name}.axes and {name}.tune. "
                "Give it another name, or leave it out of one."
            )

    def _check_around(self, around: Around) -> None:
        for name, values in {**around.axes, **around.at}.items():
            compared_values = self.axes.get(name, [])
            if not compared_values:
                raise ConfigurationError(
                    f"around varies axes, which are {', '.join(self.axes)}, got {name!r}. Add it there."
                )
            if not values or (name in around.axes and set(map(str, values)) & set(map(str, compared_values))):
                raise ConfigurationError(
                    f"around needs further values of {name}, and has {values} beside {compared_values}. Name others."
                )

    def _check_tuning(self, name: str, method: Method) -> None:
        if self.tuning is None:
            raise ConfigurationError(f"{name} is to be tuned, and there is no `tuning`. Say the seeds: tuning: {{axes: …}}.")
        if shared := set(self.axes[SEED]) & set(self.tuning.axes.get(SEED) or []):
            raise ConfigurationError(
                f"tuning must not see the reported seeds, and both have {sorted(shared)}. Tune on others, e.g. [100, 101]."
            )
        count = 1
        for values in method.tune.values():
            count *= len(values)
        if count > self.tuning.budget:
            raise ConfigurationError(
                f"a method may be tuned over {self.tuning.budget} settings (tuning.budget), and {name} has {count}. "
                "Name fewer, or give all methods a larger budget."
            )


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
    inner = get_args(kind)[-1:]
    if isinstance(value, dict) and inner != (Any,):
        return {name: _value(inner[0], part, f"{where}.{name}") for name, part in value.items()}
    return value
