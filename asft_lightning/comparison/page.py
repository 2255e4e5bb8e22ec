"""The page of a comparison: one HTML file that shows without a network, on a phone and in the dark too."""

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from asft_lightning.comparison.results import Cell
from asft_lightning.comparison.spec import SEED


def render(**content: Any) -> str:
    """The page; what stands in ``content`` is text, and never markup.

    Args:
        content: What ``report.html.j2`` asks for.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(content)


def data_uri(path: Path) -> str:
    """A PNG within the page."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def run_links(cell: Cell, folder: Path) -> list[tuple[str, str]]:
    """(seed, address beside the page) of the runs that lie in the comparison's folder.

    Args:
        cell: The runs.
        folder: The page's.
    """
    return [
        (str(result.axes.get(SEED, "run")), quote(f"{Path(result.folder).relative_to(folder).as_posix()}/"))
        for result in cell.results
        if result.folder and Path(result.folder).is_relative_to(folder)
    ]
