"""The picture of a WISE report: a bar a field, and a bar a subcategory, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asft_lightning.evaluation.wise.report import WiseReport
from asft_lightning.metrics import GroupScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def draw_report(report: WiseReport, path: Path, title: str) -> None:
    """Write a PNG: fields of knowledge above, subcategories below in the colour of their field.

    Args:
        report: The scores.
        path: The file.
        title: Its heading.
    """
    from matplotlib.figure import Figure  # no pyplot: a notebook's backend stays as it is

    colours = dict(zip(report.fields, _COLOURS, strict=True))
    groups = {name: score for name, score in report.subcategories.items() if score.rated}
    figure = Figure(figsize=(7.5, 3.6 + 0.24 * len(groups)), layout="constrained")
    overall = "" if report.overall is None else f": overall {report.overall:.3f}"
    figure.suptitle(f"{title}{overall}", fontsize=11)
    fields, subcategories = figure.subplots(2, 1, height_ratios=[len(report.fields) + 1, max(1, len(groups)) + 1])
    _bars(fields, report.fields, colours)
    _bars(subcategories, groups, {name: colours[name.partition(":")[0]] for name in groups})
    if report.overall is not None:
        fields.axvline(report.overall, color="black", lw=0.8, ls="--")
    subcategories.set_xlabel("WiScore, with 95 % intervals", fontsize=9)
    figure.savefig(path, dpi=150, format="png")


def _bars(axis: Axes, groups: Mapping[str, GroupScore], colours: Mapping[str, str]) -> None:
    rated = {name: score for name, score in groups.items() if score.rated}
    means = [score.mean for score in rated.values()]
    ends = [[score.mean - score.low for score in rated.values()], [score.high - score.mean for score in rated.values()]]
    labels = [f"{name} ({score.rated})" for name, score in rated.items()]
    axis.barh(labels, means, xerr=ends, color=[colours[name] for name in rated], error_kw={"lw": 0.8, "capsize": 2})
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
