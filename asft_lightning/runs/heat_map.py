"""One panel of numbers as colours: how every heat map of this package is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_BARS: dict[str, dict[str, Any]] = {
    "horizontal": {"pad": 0.02, "fraction": 0.06, "aspect": 14},
    "vertical": {"pad": 0.01, "fraction": 0.04},
}


def draw_heat_map(
    axis: Axes,
    values: Sequence[Sequence[float | None]],
    heading: str,
    form: str,
    has_numbers: bool,
    scale: Literal["horizontal", "vertical"],
) -> None:
    """Colours from 0 to the largest value, without ticks or frame.

    Args:
        axis: Where to.
        values: Row by row from the top; None where there is none.
        heading: Above it.
        form: How a number is written, e.g. ``{:.0%}``.
        has_numbers: Whether each cell has its number in it.
        scale: How the scale of colours lies: below the panel or beside it.
    """
    top = max((value for line in values for value in line if value is not None), default=0.0) or 1.0
    grid = [[float("nan") if value is None else value for value in line] for line in values]
    image = axis.imshow(grid, cmap="viridis", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    axis.set_title(heading, fontsize=9)
    axis.tick_params(length=0, labelsize=8)
    for side in axis.spines.values():
        side.set_visible(False)
    for y, line in enumerate(values if has_numbers else ()):
        for x, value in enumerate(line):
            if value is not None:
                colour = "black" if value > 0.6 * top else "white"
                axis.text(x, y, form.format(value), ha="center", va="center", fontsize=7, color=colour)
    bar = axis.figure.colorbar(image, ax=axis, orientation=scale, **_BARS[scale])
    bar.set_ticks([0.0, top], labels=["0", form.format(top)], fontsize=8)
    bar.outline.set_visible(False)
