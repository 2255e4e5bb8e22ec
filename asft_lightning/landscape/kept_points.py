"""KeptPoints: the points of a map on the disk, each as soon as it is scored, and under which settings."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from asft_lightning.errors import ConfigurationError
from asft_lightning.landscape.grid import Point, point
from asft_lightning.runtime.files import append, drop_half_line, write_json

_SAME = 1e-4
"""Relative: a direction's norm is summed up in another order on another machine."""

Scores = dict[str, float | None]


class KeptPoints:
    """The points that a folder holds, those of other processes too, and those that come.

    Args:
        folder: The map's.
        settings: What makes a point what it is, nested plain data; under ``directions`` those of each by name. A map may
            get further directions and points, and none that was scored otherwise.
        share: Where in the folder this process keeps its points.

    Raises:
        ConfigurationError: If the folder's points were scored with another setting, or its files are no such.
        StorageError: If it cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], share: str = ".") -> None:
        self._folder, self._file = folder, folder / share / "points.jsonl"
        there = _read_settings(folder / "settings.json")
        if there is not None:
            _require_same(folder, _flat(there), _flat(settings))
        directions = {**(there or {}).get("directions", {}), **settings["directions"]}
        write_json(folder / "settings.json", {**settings, "directions": directions})
        self.scores: dict[Point, Scores] = {}
        self.seconds: dict[Point, float] = {}
        drop_half_line(self._file)
        self.read()

    def read(self) -> None:
        """Read what there is by now.

        Raises:
            ConfigurationError: If a line is no point.
        """
        own = [self._folder / "points.jsonl", *sorted(self._folder.glob("share-*-of-*/points.jsonl"))]
        for file in (file for file in own if file.is_file()):  # not those of another map that lies within
            whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")  # another process may be writing the last one
            for number, text in enumerate(whole.splitlines(), start=1):
                self._take(text, f"line {number} of {file}")

    def add(self, place: Point, scores: Scores, seconds: float) -> None:
        """Keep a point.

        Args:
            place: Where.
            scores: What was measured there.
            seconds: What that took.

        Raises:
            StorageError: If it cannot be written.
        """
        record = {"at": dict(place), "scores": scores, "seconds": round(seconds, 3)}
        append(self._file, json.dumps(record, ensure_ascii=False) + "\n")
        self.scores[place], self.seconds[place] = scores, seconds

    def along(self, name: str, reach: float) -> dict[float, Scores]:
        """{α: scores} of all points along one direction, up to a reach, ascending."""
        measured = {
            sum((alpha for _, alpha in place), 0.0): scores for place, scores in self.scores.items() if _is_on(place, name)
        }
        return {alpha: measured[alpha] for alpha in sorted(measured) if abs(alpha) <= reach}

    def _take(self, text: str, where: str) -> None:
        try:
            record = json.loads(text)
            place = point(record["at"])
            self.scores[place], self.seconds[place] = dict(record["scores"]), float(record["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{where} must be a point, and is none ({type(error).__name__}). Remove it; its point is scored again."
            ) from error


def _is_on(place: Point, name: str) -> bool:
    return all(direction == name for direction, _ in place)


def described(value: Any) -> Any:
    """A setting as plain data: an object by its class and what it was made with."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): described(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [described(part) for part in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    names = [item.name for item in fields(value) if item.compare] if is_dataclass(value) else list(vars(value))
    known = {name: described(getattr(value, name)) for name in names if not name.startswith("_")}
    return {"class": type(value).__qualname__, **known}


def _read_settings(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {**content, "directions": dict(content["directions"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file} must hold the settings of a map, and does not ({type(error).__name__}). Name another folder."
        ) from error


def _require_same(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    known = {name for name in there if not name.startswith("directions.")} | {
        name for name in now if not name.startswith("directions.") or name in there
    }
    for name in sorted(known):
        if not _is_same(there.get(name), now.get(name)):
            raise ConfigurationError(
                f"a map has one setting of each, and {folder} has points with {name} {there.get(name)!r:.80}, got "
                f"{now.get(name)!r:.80}. Set it back, or name another folder."
            )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_SAME)
    return bool(one == other)


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    return dict(_named(settings, before))


def _named(settings: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _named(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
