"""The picture of an audit: the scores of all rows, and which of them are flagged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asft_lightning.audit.score import RowScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXES = {
    "refused": "how surely the aligned model refuses the prompt: log odds, nats",
    "likeness": "how like unsafe prompts the prompt looks to the aligned model: spreads within a kind",
    "conflict": "how far training on the row goes the way of complying answers: cosine",
    "surprise": "surprise of the answer: nats a token beyond the model's own",
}
_BINS = 40
_COLOURS = {"not flagged": "0.6", "flagged": "#c1272d"}


def draw_audit(
    scores: Mapping[str, Sequence[RowScore]],
    thresholds: Mapping[str, float | None],
    flagged: Collection[int],
    path: Path,
) -> None:
    """Write a PNG with a panel a score: a histogram of the rows that have one, and beside it how many have none.

    Args:
        scores: {score: what it says of each row}.
        thresholds: {score: beyond which value it flags}.
        flagged: Places of the flagged rows.
        path: The file.
    """
    from matplotlib.figure import Figure  # no pyplot: a notebook's backend stays as it is

    figure = Figure(figsize=(7, 2.9 * len(scores) + 0.3), layout="constrained")
    panels = figure.subplots(len(scores), 1, squeeze=False)[:, 0]
    for axis, (name, of_rows) in zip(panels, scores.items(), strict=True):
        _draw(axis, name, [score.value for score in of_rows], thresholds[name], flagged)
    figure.savefig(path, dpi=150, format="png")


def _draw(axis: Axes, name: str, values: Sequence[float], threshold: float | None, flagged: Collection[int]) -> None:
    groups = {
        label: [value for place, value in enumerate(values) if (place in flagged) == is_flagged and math.isfinite(value)]
        for label, is_flagged in (("not flagged", False), ("flagged", True))
    }
    if any(groups.values()):
        labels = [f"{label}: {len(group)}" for label, group in groups.items()]
        axis.hist(list(groups.values()), bins=_BINS, stacked=True, color=list(_COLOURS.values()), label=labels)
        axis.legend(fontsize=8, frameon=False)
    if threshold is not None and math.isfinite(threshold):
        axis.axvline(threshold, color="black", lw=0.8, ls="--")
    answered = sum(not math.isfinite(value) for value in values)
    title = f"{name}: {len(values)} rows" + (f", of which {answered} prompts are answered and not shown" if answered else "")
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(_AXES.get(name, name), fontsize=9)
    axis.set_ylabel("rows", fontsize=9)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
