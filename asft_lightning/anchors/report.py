"""Anchors for people: the spectrum of each module as a table, what it means in plain words, and a picture of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from asft_lightning.anchors.anchor import ModuleAnchor
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.extras import require_matplotlib

if TYPE_CHECKING:
    from asft_lightning.anchors.anchor_set import AnchorSet, AnchorTerm

_MEANINGS = (
    (0.05, "no eigenvalue of C reaches 0.05, so the anchor does not anchor: the penalty is plain shrinkage of the update."),
    (1.0, "an eigenvalue of C above 1 over-anchors: C maps that direction past itself."),
    (2.0, "an eigenvalue of C above 2 repels: moving along V costs more than leaving it."),
)
_LIKE_SHRINKAGE = 0.99


def table(anchors: AnchorSet) -> str:
    """A line for each module and anchor: ‖V‖_F, trace and largest eigenvalue of C, directions kept, energy, bound, size."""
    width, wide = max(map(len, anchors.shapes)), max(9, *(len(term.label) for term in anchors.terms))
    head = f"{'module':{width}}  {'anchor':{wide}}   ‖V‖_F  trace C  largest c  kept  energy  error bound       KiB"
    lines = [f"{name:{width}}  {label:{wide}}  {_figures(anchor)}" for name, label, anchor in anchors.rows()]
    return "\n".join([head, *lines])


def remarks(anchors: AnchorSet) -> list[str]:
    """Where an anchor is plain shrinkage, where it over-anchors, and what the anchors weigh."""
    found = [remark for term in anchors.terms for remark in _remarks(term, anchors)]
    weights = sum(d_out * d_in for d_out, d_in in anchors.shapes.values())
    mib, share = anchors.num_bytes / 2**20, anchors.num_bytes / (2 * weights)
    return [*found, f"Size: {mib:.2f} MiB, {share:.2%} of the targeted weights at two bytes each."]


def picture(anchors: AnchorSet, path: str | Path) -> None:
    """Write a PNG: the eigenvalues of C, one panel a kind of projection, one line a layer.

    Raises:
        ConfigurationError: If matplotlib is not installed, or no anchor has a map.
    """
    require_matplotlib()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[str, list[ModuleAnchor]] = {}
    for name, label, anchor in anchors.rows():
        if anchor.eigenvalues is not None and len(anchor.eigenvalues):
            panels.setdefault(f"{label}, {name.rpartition('.')[2]}", []).append(anchor)
    if not panels:
        raise ConfigurationError("a picture shows the eigenvalues of C, and these anchors have no map. Show the table only.")
    figure = pyplot.figure(figsize=(4 * len(panels) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    colours = pyplot.get_cmap("viridis")
    for axis, (title, layers) in zip(axes[0], panels.items(), strict=True):
        for i, anchor in enumerate(layers):
            assert anchor.eigenvalues is not None
            ranks = range(1, len(anchor.eigenvalues) + 1)
            axis.plot(ranks, anchor.eigenvalues, marker=".", lw=1, color=colours(i / max(1, len(layers) - 1)))
        for limit, text in ((1.0, "1: left free"), (2.0, "2: repels")):
            axis.axhline(limit, color="0.4", lw=0.8, ls="--")
            axis.annotate(text, (1.0, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        axis.set(title=title, xlabel="direction, of those kept", xscale="log", yscale="log")
    axes[0][0].set_ylabel("eigenvalue c of C")
    depth = pyplot.cm.ScalarMappable(pyplot.Normalize(0, max(1, max(map(len, panels.values())) - 1)), colours)
    figure.colorbar(depth, ax=axes[0].tolist(), label="layer", ticks=pyplot.MaxNLocator(integer=True))
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)


def _figures(anchor: ModuleAnchor) -> str:
    s = anchor.spectrum
    figures = f"{s.norm:6.3f}  {s.trace:7.3f}  {s.largest:9.4f}  {s.kept:4d}  {s.energy:6.1%}  {s.error_bound:11.2%}"
    return f"{figures}  {anchor.num_bytes / 2**10:8.1f}"


def _remarks(term: AnchorTerm, anchors: AnchorSet) -> Iterator[str]:
    if term.relative:
        kept = [anchor.spectrum.kept for anchor in term.modules.values()]
        yield (
            f"{term.label}: {min(kept)} to {max(kept)} directions hold what unsafe prompts put into a layer. Of its inputs "
            "‖V‖_F is the root mean square here, and largest c the share of their energy along one direction."
        )
    maps = {name: a for name, a in term.modules.items() if a.eigenvalues is not None and a.out and a.out.beta}
    if not maps:
        return
    costs = [_mean_cost(anchor, anchors.shapes[name][0]) for name, anchor in maps.items()]
    yield (
        f"{term.label}: an update in no particular direction costs {min(costs):.1%} to {max(costs):.1%} of what Shrinkage "
        f"asks for it, from module to module."
    )
    if min(costs) >= _LIKE_SHRINKAGE:
        yield f"{term.label}: but for a few directions the penalty is plain shrinkage. Compare with Shrinkage."
    largest = {name: anchor.spectrum.largest for name, anchor in maps.items()}
    for limit, meaning in _MEANINGS:
        if beyond := [name for name, c in largest.items() if (c < limit if limit < 1 else c > limit)]:
            worst = max(beyond, key=largest.__getitem__)
            yield f"{term.label}: in {len(beyond)} of {len(maps)} modules (c = {largest[worst]:.3g} in {worst}) {meaning}"


def _mean_cost(anchor: ModuleAnchor, d_out: int) -> float:
    """Trace M_out / d_out: the penalty of an update in a random direction, as a share of its ‖ΔW‖²."""
    assert anchor.out is not None
    return anchor.out.beta + float((anchor.out.weights - anchor.out.beta).sum()) / d_out
