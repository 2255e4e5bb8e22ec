"""Labels of points: beside the panel, each with a line to its point, so that none lies on another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT, WIDTH = 0.15, 0.065
"""What a label takes, in inches: its height, and the width of a character."""
_GAP = 1.1
"""Heights of a label from one to the next."""
_COLUMN = 1.04
"""Where the labels begin, in widths of the panel."""


def add_label(axis: Axes, text: str, at: tuple[float, float], colour: str) -> None:
    """Name a point; :func:`put_apart` says where the name stands.

    Args:
        axis: The panel.
        text: The name.
        at: The point.
        colour: Of the line to it.
    """
    line = {"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
    axis.annotate(
        text, at, (_COLUMN, 0.5), textcoords="axes fraction", va="center", fontsize=8, annotation_clip=False, arrowprops=line
    )


def put_apart(figure: Figure) -> None:
    """Give the labels of each panel places in a column, in the order of their points from the top."""
    from matplotlib.text import Annotation, Text

    figure.draw_without_rendering()  # the layout, which says how high panels and labels are
    for axis in figure.axes:
        labels = [text for text in axis.texts if isinstance(text, Annotation)]
        if not labels:
            continue
        in_panel = axis.transData + axis.transAxes.inverted()
        points = {label: in_panel.transform(label.xy) for label in labels}
        labels.sort(key=lambda label: (-points[label][1], points[label][0]))
        step = _GAP * max(Text.get_window_extent(label).height for label in labels) / axis.get_window_extent().height
        for label, place in zip(labels, places([points[label][1] for label in labels], step), strict=True):
            label.set_position((_COLUMN, place))


def places(wished: Sequence[float], step: float) -> list[float]:
    """Places from the top down, at least ``step`` from one to the next, near those that are wished, and none below 0.

    >>> [round(place, 2) for place in places([1.0, 0.98, 0.5, 0.0, 0.0], 0.1)]
    [1.0, 0.9, 0.5, 0.1, 0.0]
    """
    found: list[float] = []
    for wish in wished:
        found.append(min(wish, found[-1] - step) if found else wish)
    lowest = 0.0
    for i in reversed(range(len(found))):
        found[i] = lowest = max(found[i], lowest)
        lowest += step
    return found
