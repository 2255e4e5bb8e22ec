"""What people read: lines as they are, and tables as Markdown and HTML."""

import re
from collections.abc import Sequence
from html import escape

from rich.console import Console
from rich.text import Text

from asft_lightning.runtime.plain import plain

_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "<br>"})


def as_markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    r"""A table as Markdown, for model cards and loggers.

    >>> print(as_markdown(["a", "b"], [["x|y", 1]]))
    | a | b |
    | --- | --- |
    | x\|y | 1 |
    """
    lines = [list(headings), ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(markdown, line))} |" for line in lines)


def as_html(headings: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    r"""The same as HTML, for notebooks; nothing in a cell is markup.

    >>> print(as_html(["a", "b"], [["<x>", "1"]]))
    <table>
    <tr><th style="text-align: left">a</th><th style="text-align: right; white-space: pre">b</th></tr>
    <tr><td style="text-align: left">&lt;x&gt;</td><td style="text-align: right; white-space: pre">1</td></tr>
    </table>
    """

    def line(kind: str, cells: Sequence[str]) -> str:
        sides = ("left" if i < texts else "right; white-space: pre" for i in range(len(cells)))
        written = (
            f'<{kind} style="text-align: {side}">{escape(plain(cell))}</{kind}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(written)}</tr>"

    return "\n".join(["<table>", line("th", headings), *(line("td", row) for row in rows), "</table>"])


def say(*texts: str) -> None:
    """Print lines as they are: nothing in them is coloured, cut or interpreted, by the terminal neither."""
    console = Console()
    for text in texts:
        console.print(_text(text), soft_wrap=True)


def markdown(text: object) -> str:
    r"""A text as it is, where Markdown is read: no markup, no HTML, on one line.

    >>> print(markdown("safety/harmful_score <b>[x](y)"))
    safety/harmful_score &lt;b&gt;\[x\](y)
    """
    return _MARKDOWN.sub(r"\\\g<0>", plain(str(text))).translate(_HTML)


def markdown_code(text: str) -> str:
    """The same as code, e.g. a model's name.

    >>> print(markdown_code("org/model"), markdown_code("a`b"))
    `org/model` `` a`b ``
    """
    line = " ".join(plain(text).split())
    ticks = max(map(len, re.findall("`+", line)), default=0)
    return f"`{line}`" if not ticks else f"{'`' * (ticks + 1)} {line} {'`' * (ticks + 1)}"


def _text(text: str) -> Text:
    return Text(plain(text))
