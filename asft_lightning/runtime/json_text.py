"""JSON for people and for version control: mappings indented, and of a list an item a line, as a run of a comparison."""

import json
from typing import Any


def as_json(value: Any) -> str:
    """A value as JSON text; what JSON has no type for is written as its text.

    >>> print(as_json({"seed": 0, "runs": [{"method": "sft", "hs": [1, 2]}, {"method": "asft"}], "none": []}))
    {
      "seed": 0,
      "runs": [
        {"method": "sft", "hs": [1, 2]},
        {"method": "asft"}
      ],
      "none": []
    }
    """
    return _indented(json.loads(_line(value)), "")  # keys are texts then, and tuples lists


def _indented(value: Any, indent: str) -> str:
    inner = f"{indent}  "
    if isinstance(value, dict) and value:
        entries = [f"{inner}{_line(name)}: {_indented(entry, inner)}" for name, entry in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + _line(item) for item in value) + f"\n{indent}]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
