"""WiseRecord: one prompt of the WISE benchmark, as its own files have it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asft_lightning.errors import DataError
from asft_lightning.metrics import WISE_VERSIONS
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.reading import readable

_FIELDS = {
    "cultural knowledge": "culture",
    "time": "time",
    "space": "space",
    "biology": "biology",
    "physical knowledge": "physics",
    "chemistry": "chemistry",
}
"""{a record's Category, in small letters: the field of knowledge}."""

_TEXTS = ("Prompt", "Explanation", "Category", "Subcategory")


class WiseRecord(NamedTuple):
    """One prompt.

    Attributes:
        id: 1 to 1000.
        prompt: What an image was made from.
        explanation: What the image has to show.
        field: Of knowledge, one of the version's groups.
        subcategory: As the benchmark names it.
    """

    id: int
    prompt: str
    explanation: str
    field: str
    subcategory: str


def read_records(data: str, version: str) -> list[WiseRecord]:
    """The benchmark's records, by id.

    Args:
        data: A JSON file, a folder of them, or a pattern of files, e.g. ``wise/legacy-*.json``.
        version: Of ``WISE_VERSIONS``; records of another one are refused.

    Raises:
        DataError: If there is no file, or one is no list of such records, or an id stands twice.
        ConfigurationError: If a file is no JSON.
    """
    found: dict[int, tuple[Path, WiseRecord]] = {}
    for path in _files(data):
        for record in _records(path, version):
            if record.id in found:
                raise DataError(
                    f"a prompt_id must stand once, got {record.id} in {found[record.id][0]} and in {path}. "
                    "Name the files of one version, e.g. 'wise/legacy-*.json'."
                )
            found[record.id] = path, record
    return [found[i][1] for i in sorted(found)]


def by_subcategory(records: Sequence[WiseRecord]) -> dict[str, list[int]]:
    """{field and subcategory: ids}, in the order of the ids."""
    groups: dict[str, list[int]] = {}
    for record in records:
        groups.setdefault(f"{record.field}: {record.subcategory}", []).append(record.id)
    return groups


def _files(data: str) -> list[Path]:
    path = user_path(data)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
    else:
        files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not files:
        raise DataError(f"WISE's records must be JSON files, and there is none at {data}. Name a file, or their folder.")
    return files


def _records(path: Path, version: str) -> Iterator[WiseRecord]:
    values = readable(path, lambda: json.loads(path.read_text(encoding="utf-8-sig")), "JSON")
    if not isinstance(values, list):
        raise DataError(f"{path} must hold a list of records, got {type(values).__name__}. Get WISE's own file.")
    for place, value in enumerate(values):
        yield _record(value, f"record {place} of {path}", version)


def _record(value: Any, where: str, version: str) -> WiseRecord:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) and value[name].strip() for name in _TEXTS):
        raise DataError(f"{where} must have the texts {', '.join(_TEXTS)}, got {value!r:.80}. Get WISE's own file.")
    number, field = value.get("prompt_id"), _FIELDS.get(value["Category"].strip().lower())
    if type(number) is not int or field is None:
        raise DataError(
            f"{where} must have a whole number as prompt_id and a Category among {', '.join(_FIELDS)}, got "
            f"{number!r:.20} and {value['Category']!r:.40}. Get WISE's own file."
        )
    groups = WISE_VERSIONS[version].groups
    if number not in groups[field]:
        ids = groups[field]
        other = next(name for name in WISE_VERSIONS if name != version)
        raise DataError(
            f"{where} is {number}, of {field}, which in WISE's {version} version has the ids {ids[0]} to {ids[-1]}. "
            f"If it is of the {other} version, take --version {other}."
        )
    return WiseRecord(number, value["Prompt"], value["Explanation"], field, value["Subcategory"].strip())
