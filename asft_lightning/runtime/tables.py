"""Tables in the terminal and as plain text: a name is broken where it has a joint, and a figure never."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from asft_lightning.runtime.plain import plain

_JOINTS = re.compile(r"(?<=[\s/_:,-])")
"""Behind these a name goes on in the next line where it has to."""
_SPACES = re.compile(r"(?<=\s)")
_FRAME = 2
"""Places before each column's cells that stay blank; and one more behind the last."""
_NO_WRAP_WIDTH = 10_000


@dataclass(frozen=True)
class Sheet:
    """A table to print; nothing in a cell is interpreted.

    Args:
        headings: Of the columns.
        rows: Their cells.
        title: Above it.
        texts: How many columns from the left are text, and stand at their left; others are figures, at their right.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None
    texts: int = 1

    def fitted(self, width: int) -> RenderableType:
        """The table on so many places; where it has no room there, each row in lines of its own."""
        widths = self._widths(width - _FRAME * len(self.headings) - 1)
        return self._records() if widths is None else self._grid(widths)

    def wide(self) -> Table:
        """The table as wide as it needs to be, without a frame."""
        table = self._grid([_NO_WRAP_WIDTH] * len(self.headings))
        table.box, table.pad_edge, table.padding = None, False, (0, 1)
        return table

    def _grid(self, widths: Sequence[int]) -> Table:
        title = None if self.title is None else Text(plain(self.title))
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for i, (heading, width) in enumerate(zip(self.headings, widths, strict=True)):
            table.add_column(_broken(heading, width), justify="left" if i < self.texts else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(_broken, row, widths))
        return table

    def _records(self) -> Group:
        parts: list[RenderableType] = [] if self.title is None else [Text(plain(self.title)), ""]
        for name, *cells in self.rows:
            lines = Table.grid(padding=(0, 2))
            lines.add_column(no_wrap=True)
            lines.add_column(overflow="fold")
            for heading, cell in zip(self.headings[1:], cells, strict=True):
                lines.add_row(Text(f"  {plain(heading)}"), Text(plain(cell).strip()))
            parts += [Text(plain(name), overflow="fold"), lines]
        return Group(*parts, "")

    def _widths(self, room: int) -> list[int] | None:
        """Of the columns, on so many places: headings are broken first, and names where that is too little; or None."""
        columns = [[plain(cell) for cell in column] for column in zip(self.headings, *self.rows, strict=True)]
        widths = [max(map(_length, column)) for column in columns]
        whole = [max([_longest_part(heading), *map(_length, cells)]) for heading, *cells in columns]
        broken = [max(map(_longest_part, column)) if i < self.texts else whole[i] for i, column in enumerate(columns)]
        for least in (whole, broken):
            while sum(widths) > room and (wide := [i for i, width in enumerate(widths) if width > least[i]]):
                widths[max(wide, key=widths.__getitem__)] -= 1
        return widths if sum(widths) <= room else None


def show(sheet: Sheet) -> None:
    """Print a table, as wide as the terminal."""
    console = Console()
    console.print(sheet.fitted(console.width))


def as_text(headings: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """The same as plain text, as wide as it needs to be: for files, pipes and ``str``."""
    out = io.StringIO()
    Console(file=out, width=_NO_WRAP_WIDTH, no_color=True, force_terminal=False).print(
        Sheet(headings, rows, texts=texts).wide()
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _broken(cell: str, width: int) -> Text:
    """A cell in lines of so many places: a word that has no room in one is broken at its joints."""
    lines = []
    for given in plain(cell).split("\n"):
        line = ""
        words = _SPACES.split(given)
        for part in (part for word in words for part in ([word] if _length(word) <= width else _JOINTS.split(word))):
            if line and cell_len(line + part.rstrip()) > width:
                lines.append(line.rstrip())
                line = ""
            line += part
        lines.append(line)
    return Text("\n".join(lines))


def _longest_part(cell: str) -> int:
    return max(cell_len(part.rstrip()) for part in _JOINTS.split(cell))


def _length(cell: str) -> int:
    return max(map(cell_len, cell.split("\n")))
