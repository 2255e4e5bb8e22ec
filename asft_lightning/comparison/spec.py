"""Comparison: which methods, what varies, and how they are tuned."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asft_lightning.comparison.search import Search
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.names import require_name

_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")

SEED, POISON, ATTACK = "seed", "poison_ratio", "attack"
"""Axes with a meaning of their own: the mean is taken over seeds, tables and pictures are laid out by poison ratio, and an
attack is called by its value alone."""


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
        configs: Config files, after the comparison's, as there.
        settings: Settings by their dotted names, over the comparison's; what ends in ``+`` adds to a list. ``$NAME`` stands
            for the value of an axis.
        axes: {name: values} that this method alone is compared at.
        tune: {name: values} of which one setting is chosen on the tuning seeds; of several, each with each.
        first: What is run before, e.g. the harmful fine-tuning of AsFT-Alt.
        after: The method whose runs this one goes on from at their end, for what is done after training: a projection, or
            another way to ask. Its configs, settings and first step are this method's too, before its own.
    """

    configs: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    tune: dict[str, list[Any]] = field(default_factory=dict)
    first: FirstStep | None = None
    after: str | None = None


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
        configs: Config files of every run, by path or by name; ``$NAME`` stands for the value of an axis, and is left out of
            first steps.
        settings: Settings of every run, by their dotted names.
        around: Further values of axes, one factor at a time.
        default_method: The one that is recommended, marked in the report.
        tuning: How methods with ``tune`` are tuned.
        search: What an attacker tries on each method; null for no such search.
        published: {method: {figure: percent}} that others published, e.g. ``harmful_score`` and ``accuracy``: means over all
            settings, to stand beside one's own.
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
    search: Search | None = None
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    jobs: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what could not be run, or not be reported, before anything is."""
        self._check_texts()
        if not self.methods:
            raise ConfigurationError("a comparison needs methods, got none. Name at least one under `methods`.")
        if not self.axes.get(SEED):
            raise ConfigurationError(f"axes must have `{SEED}`, over which means are taken, got {list(self.axes)}. Add it.")
        self._check_numbers()
        if self.threads < 1 or (self.jobs is not None and self.jobs < 1):
            raise ConfigurationError(f"jobs and threads must be 1 or more, got {self.jobs} and {self.threads}.")
        self._check_named_methods()
        if self.around is not None:
            self._check_around(self.around)
        self._check_after()
        for where, axes in (("tuning", self.tuning and self.tuning.axes), ("search", self.search and self.search.axes)):
            self._check_seeds(where, axes or {})
            _require_values(f"{where}.axes", axes or {})
        _require_values("search.tries", self.search.tries if self.search else {})
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

    def _check_named_methods(self) -> None:
        """What is said of a method must be of one that is there."""
        if self.default_method is not None and self.default_method not in self.methods:
            raise ConfigurationError(
                f"default_method must be one of the methods, {', '.join(self.methods)}, got {self.default_method!r}. "
                "Name one of them, or leave it out."
            )
        if unknown := [name for name in self.published if name not in self.methods]:
            raise ConfigurationError(
                f"published figures are of methods, {', '.join(self.methods)}, got {unknown[0]!r}. Add it, or leave it out."
            )
        if self.search and self.search.reference not in self.methods:
            raise ConfigurationError(
                f"search.reference must be one of the methods, {', '.join(self.methods)}, got {self.search.reference!r}. "
                "Name plain fine-tuning."
            )

    def _check_numbers(self) -> None:
        """Seeds, poison ratios and the margin are reckoned with; values of other axes may be anything."""
        for where, part in (("tuning", self.tuning), ("search", self.search)):
            if part and not 0 <= part.margin <= 100:
                raise ConfigurationError(
                    f"{where}.margin must lie in 0..100 points, got {part.margin!r:.60}. 2 is usual, and 10 for an attacker."
                )
        every = [self.axes, *(axes for method in self.methods.values() for axes in (method.axes, method.tune))]
        every += [*([self.around.axes, self.around.at] if self.around else []), *([self.tuning.axes] if self.tuning else [])]
        every += [self.search.axes, self.search.tries] if self.search else []
        for axes in every:
            if bad := [seed for seed in axes.get(SEED, []) if type(seed) is not int]:
                raise ConfigurationError(f"seeds must be whole numbers, got {bad[0]!r:.60}. Write them as [0, 1, 2].")
            if bad := [p for p in axes.get(POISON, []) if type(p) not in (int, float) or not 0 <= p <= 1]:
                raise ConfigurationError(f"poison ratios must lie in 0..1, got {bad[0]!r:.60}. 0.1 is 10 %.")

    def _check_axes(self, name: str, method: Method) -> None:
        every = [("axes", self.axes), (f"{name}.axes", method.axes), (f"{name}.tune", method.tune)]
        for where, axes in every:
            _require_values(where, axes)
        if self.search and (own := [axis for axis in self.search.tries if axis in method.axes]):
            raise ConfigurationError(
                f"what an attacker tries tells no variants of a method apart, and {own[0]!r} of {name} is among "
                "search.tries. Leave it out of one."
            )
        groups = [set(axes) for _, axes in every]
        if twice := (groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2]):
            raise ConfigurationError(
                f"an axis has one place, and {min(twice)!r} of {name} has several among axes, {name}.axes and {name}.tune. "
                "Give it another name, or leave it out of one."
            )

    def _check_after(self) -> None:
        """What is gone on from must be one run at each setting, and keep its checkpoint."""
        trained = {name: one for name, one in self.methods.items() if one.after is None and not one.tune and not one.axes}
        for name, method in self.methods.items():
            if method.after is None:
                continue
            if method.after not in trained:
                raise ConfigurationError(
                    f"{name}.after must be a method of this comparison that trains, without tune or axes of its own, got "
                    f"{method.after!r}; there are {', '.join(trained) or 'none'}. Name one of them, or leave it out."
                )
            if method.first and trained[method.after].first:
                raise ConfigurationError(
                    f"a method has one first step, and {name} has one beside that of {method.after}, which it comes after. "
                    "Leave one out."
                )
            if {**self.settings, **trained[method.after].settings}.get("trainer.enable_checkpointing") is False:
                raise ConfigurationError(
                    f"{name} goes on from the checkpoint that {method.after} ends with, which is to write none. Set "
                    f"trainer.enable_checkpointing: true in the settings of {method.after}."
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

    def _check_seeds(self, where: str, axes: dict[str, list[Any]]) -> None:
        if shared := set(self.axes[SEED]) & set(axes.get(SEED) or []):
            raise ConfigurationError(
                f"{where} must not see the reported seeds, and both have {sorted(shared)}. Name others, e.g. [100, 101]."
            )

    def _check_tuning(self, name: str, method: Method) -> None:
        if self.tuning is None:
            raise ConfigurationError(f"{name} is to be tuned, and there is no `tuning`. Say the seeds: tuning: {{axes: …}}.")
        count = 1
        for values in method.tune.values():
            count *= len(values)
        if count > self.tuning.budget:
            raise ConfigurationError(
                f"a method may be tuned over {self.tuning.budget} settings (tuning.budget), and {name} has {count}. "
                "Name fewer, or give all methods a larger budget."
            )


def _require_values(where: str, axes: Mapping[str, Sequence[Any]]) -> None:
    if bad := [axis for axis, values in axes.items() if not values or len(set(map(str, values))) < len(values)]:
        raise ConfigurationError(f"an axis needs values, each once, and {where}.{bad[0]} has {axes[bad[0]]}.")
