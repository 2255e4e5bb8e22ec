"""Plan: from a comparison to its runs, each of which is one ``asft-lightning fit`` known by its content."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from asft_lightning.comparison.placeholders import filled, is_name, merged, names
from asft_lightning.comparison.search import Search
from asft_lightning.comparison.spec import SEED, Comparison, Method
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.named_configs import find_config
from asft_lightning.runtime.yaml_files import read_yaml

_FIRST = "first"
_UNTRAINED = re.compile(r"(template\.safety_prompt|trainer\.callbacks\+?|model\.class_path)$")
"""Settings that training does not depend on, or, as the class, are compared when a run goes on."""
_Axes = Mapping[str, Sequence[Any]]
_Methods = Mapping[str, Method]


@dataclass(frozen=True)
class Run:
    """One ``asft-lightning fit``.

    Args:
        method: The method's name; ``first`` for a first step.
        axes: {name: value} of every axis that it depends on.
        configs: Its config files.
        settings: {dotted name: value}, with ``$first`` in place of the first step's adapter.
        parent: The folder of all runs.
        first: What must have ended before.
        trained: The run that this one goes on from at its end, in place of training.
    """

    method: str
    axes: Mapping[str, Any]
    configs: Sequence[str]
    settings: Mapping[str, Any]
    parent: Path
    first: "Run | None" = None
    trained: "Run | None" = None

    @property
    def needs(self) -> "list[Run]":
        """What must be done before."""
        return [run for run in (self.first, self.trained) if run is not None]

    @property
    def checkpoint(self) -> Path | None:
        """What it goes on from."""
        return RunFolder(self.trained.folder).last_checkpoint if self.trained else None

    @cached_property
    def key(self) -> str:
        """What it follows from, in ten letters: the content of its configs, its settings, and the keys of what it needs."""
        content = [[_content(file) for file in self.configs], self.settings, self.first.key if self.first else None]
        content += [self.trained.key] if self.trained else []
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """For people, with the key, so that no two runs share it."""
        values = [re.sub(r"[^\w.]+", "", f"{name}{value}")[:40] for name, value in self.axes.items()]
        return "-".join([self.method, *values, self.key])

    @property
    def folder(self) -> Path:
        """Where it writes; the same content is always in the same place."""
        return self.parent / self.name

    @property
    def resolved(self) -> dict[str, Any]:
        """The settings as the run gets them."""
        path = {_FIRST: str(self.first.folder / "adapter")} if self.first else {}
        return {key: filled(value, path) for key, value in self.settings.items()}

    @property
    def arguments(self) -> list[str]:
        """What follows ``asft-lightning`` on the command line."""
        values = {**self.resolved, "trainer.default_root_dir": str(self.folder)}
        if self.checkpoint:
            values["ckpt_path"] = str(self.checkpoint)
        settings = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
        return ["fit", *(f"--config={file}" for file in self.configs), *settings]


class Plan:
    """The runs of a comparison.

    Args:
        comparison: What to compare.

    Raises:
        ConfigurationError: If a config file is absent, a ``$NAME`` is no axis, or an axis is named nowhere.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.folder = comparison.folder / "runs"
        self.methods = {name: _whole(method, comparison.methods) for name, method in comparison.methods.items()}
        self.attacked = {name: _attacked(method, comparison.search) for name, method in self.methods.items()}
        for name, method in self.methods.items():
            self._check(method, {**method.axes, **method.tune})
            if method.after is not None:
                self._require_untrained(name, comparison.methods[name], method.after)
            if search := comparison.search:
                self._check(self.attacked[name], {**method.axes, **method.tune, **search.tries})
        used = set().union(*(self._used(method) for method in self.methods.values()))
        if unused := [axis for axis in comparison.axes if axis not in used]:
            raise ConfigurationError(
                f"every axis must be named by a setting, as ${unused[0]}, and none names it. Add e.g. "
                f"`SETTING: ${unused[0]}` under settings, or leave it out of axes."
            )

    def reported(self, name: str, tuned: Mapping[str, Any]) -> list[Run]:
        """The runs of a method that the report is about, with the setting that was chosen for it."""
        method, around = self.methods[name], self.comparison.around
        axes = {**self.comparison.axes, **method.axes, **{axis: [v] for axis, v in tuned.items()}}
        runs = self._runs(name, self.methods, axes)
        for factor, values in around.axes.items() if around else ():
            if factor in self._used(method):
                runs += self._runs(name, self.methods, {**axes, **(around.at if around else {}), factor: values})
        return runs

    def tuning(self, name: str, candidate: Mapping[str, Any]) -> list[Run]:
        """The runs that a setting of a method is judged by; at every value of the method's own axes."""
        assert self.comparison.tuning is not None
        method = self.methods[name]
        axes = {**self.comparison.tuning.axes, **method.axes, **{axis: [v] for axis, v in candidate.items()}}
        self._require_all("tuning", self.comparison.tuning.axes, name, method, axes)
        return self._runs(name, self.methods, axes)

    def searching(self, name: str, setting: Mapping[str, Any], reported: bool = False) -> list[Run]:
        """The runs that an attacker judges a setting by, or those of the one that was kept, at the reported seeds.

        Args:
            name: The method's.
            setting: The attacker's, and what was tuned.
            reported: Whether it is the one that was kept.
        """
        search = self.comparison.search
        assert search is not None
        method = self.attacked[name]
        seeds = {SEED: self.comparison.axes[SEED]} if reported else {}
        axes = {**search.axes, **method.axes, **{axis: [v] for axis, v in setting.items()}, **seeds}
        self._require_all("search", search.axes, name, method, axes)
        return self._runs(name, self.attacked, axes)

    def candidates(self, name: str) -> list[dict[str, Any]]:
        """The settings to choose from; none for a method that is not tuned."""
        tune = self.methods[name].tune
        return [dict(zip(tune, values, strict=True)) for values in itertools.product(*tune.values())] if tune else []

    def _require_all(self, where: str, given: _Axes, name: str, method: Method, axes: _Axes) -> None:
        if missing := [axis for axis in self.comparison.axes if axis in self._used(method) and axis not in axes]:
            raise ConfigurationError(
                f"{where}.axes must say at which {missing[0]} {name} is run, and has only {list(given)}. "
                f"Add {missing[0]}: [VALUE]."
            )

    def _runs(self, name: str, methods: _Methods, axes: _Axes) -> list[Run]:
        names_used = self._used(methods[name])
        used = {axis: values for axis, values in axes.items() if axis in names_used}
        every = [dict(zip(used, values, strict=True)) for values in itertools.product(*used.values())]
        return [self._run(name, methods, values) for values in sorted(every, key=lambda v: used[SEED].index(v[SEED]))]

    def _run(self, name: str, methods: _Methods, values: dict[str, Any]) -> Run:
        method = methods[name]
        configs = filled([*self.comparison.configs, *method.configs], values)
        settings = filled(merged(self.comparison.settings, method.settings), values)
        trained = self._trained(method.after, methods, values) if method.after else None
        return Run(name, values, configs, settings, self.folder, self._first(method, values), trained)

    def _trained(self, name: str, methods: _Methods, values: Mapping[str, Any]) -> Run:
        """The run at the same axes that one of another method goes on from."""
        used = self._used(methods[name])
        return self._run(name, methods, {axis: value for axis, value in values.items() if axis in used})

    def _first(self, method: Method, values: dict[str, Any]) -> Run | None:
        if method.first is None:
            return None
        settings = merged(self.comparison.settings, method.first.settings)
        axes = {axis: value for axis, value in values.items() if axis in names(settings)}
        fixed = [file for file in self.comparison.configs if not is_name(file)]
        return Run(_FIRST, axes, [*fixed, *method.first.configs], filled(settings, axes), self.folder)

    def _used(self, method: Method) -> set[str]:
        every = [method.settings, *([method.first.settings] if method.first else [])]
        files = names([*self.comparison.configs, *method.configs])
        return files.union(*(names(merged(self.comparison.settings, settings)) for settings in every))

    def _require_untrained(self, name: str, method: Method, after: str) -> None:
        """What is done after training must leave training as it was."""
        axes = {**self.comparison.axes, **method.axes, **method.tune}
        files = [value for file in method.configs for value in _values_of(file, axes)]
        given = [*method.settings, *(setting for file in files for setting in _names_in(_content(str(file))))]
        if bad := [setting for setting in given if not _UNTRAINED.match(setting)]:
            raise ConfigurationError(
                f"{name} goes on from where {after} ends, and may set trainer.callbacks and template.safety_prompt beside "
                f"it, got {bad[0] or 'no settings'}. Leave that out, or leave out `after` and train anew."
            )
        if lost := self._used(self.methods[after]) - self._used(self.methods[name]):
            raise ConfigurationError(
                f"{name} must vary along each axis of {after}, which it goes on from, and sets a value in place of "
                f"${min(lost)}. Leave that out, or leave out `after`."
            )

    def _check(self, method: Method, own: _Axes) -> None:
        first = method.first
        axes = {**self.comparison.axes, **own}
        known = {*axes} | ({_FIRST} if first else set())
        if unknown := self._used(method) - known:
            raise ConfigurationError(
                f"${min(unknown)} must stand for an axis, and there are {', '.join(sorted(known))}. Add it, or a value."
            )
        named = [value for file in (*self.comparison.configs, *method.configs) for value in _values_of(file, axes)]
        for file in [*named, *(first.configs if first else [])]:
            _content(str(file))
        if first and (tuned := names(first.settings) & {*method.tune}):
            raise ConfigurationError(
                f"a first step cannot depend on what is tuned after it, and one names ${min(tuned)}. Write a value there."
            )
        if unused := {SEED, *own} - self._used(method):
            raise ConfigurationError(
                f"a setting must name the axis ${min(unused)}, and none does. Add e.g. `SETTING: ${min(unused)}`; for "
                "seed it is `seed_everything: $seed`."
            )


def _names_in(content: Any, within: str = "") -> list[str]:
    """The dotted names of all settings in a config file."""
    if not isinstance(content, Mapping):
        return [within]
    return [name for key, value in content.items() for name in _names_in(value, f"{within}.{key}" if within else str(key))]


def _whole(method: Method, methods: _Methods) -> Method:
    """The method with what it takes over from the one that it comes after."""
    if method.after is None:
        return method
    trained = methods[method.after]
    settings = merged(trained.settings, method.settings)
    return replace(
        method, configs=[*trained.configs, *method.configs], settings=settings, first=method.first or trained.first
    )


def _attacked(method: Method, search: Search | None) -> Method:
    """The method as it is when an attacker trains it."""
    return replace(method, settings=merged(method.settings, search.settings)) if search else method


def _values_of(file: str, axes: _Axes) -> Sequence[Any]:
    return axes[file[1:]] if is_name(file) else [file]


@cache
def _content(file: str) -> Any:
    return read_yaml(find_config(file), "Its path is relative to where the command is run.")
