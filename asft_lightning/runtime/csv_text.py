"""CSV for spreadsheets: rows of different columns, and nothing in them that would be computed."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from asft_lightning.runtime.plain import plain

_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula."""


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names of all their columns, in the order in which they come.

    >>> print(as_csv([{"a": 1, "b": "=2"}, {"c": None}]), end="")
    a,b,c
    1,'=2,
    ,,
    """
    text = io.StringIO()
    headings = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(text, lineterminator="\n")
    lines: list[list[Any]] = [headings, *([row.get(name) for name in headings] for row in rows)]
    writer.writerows([_no_formula(cell) for cell in line] for line in lines)
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would compute, behind the apostrophe that makes it one; numbers stay numbers."""
    if not isinstance(cell, str):
        return cell
    text = plain(cell)  # a lone end of a line would end the row
    return f"'{text}" if text.startswith(_FORMULA) else text
