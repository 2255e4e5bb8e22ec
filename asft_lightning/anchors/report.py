"""Anchors for people: the spectrum of each module as a table, what it means in plain words, and a picture of it."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.anchors.term import AnchorTerm, by_module
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.extras import is_installed, require_extra
from asft_lightning.runtime.plain import plain
from asft_lightning.runtime.tables import as_text
from asft_lightning.runtime.terminal import as_html

_MEANINGS = (
    (0.05, "no eigenvalue of C reaches 0.05, so the anchor does not anchor: the penalty is plain shrinkage of the update."),
    (1.0, "an eigenvalue of C above 1 over-anchors: C maps that direction past itself."),
    (2.0, "an eigenvalue of C above 2 repels: moving along V costs more than leaving it."),
)
_LIKE_SHRINKAGE = 0.99
_HEADINGS = ("module", "anchor", "‖V‖_F", "trace C", "largest c", "kept", "energy", "error bound", "KiB")


def spectrum_table(terms: Sequence[AnchorTerm]) -> str:
    """A line for each module and anchor: ‖V‖_F, trace and largest eigenvalue of C, directions kept, energy, bound, size."""
    return as_text(_HEADINGS, _rows(terms), texts=2)


def spectrum_html(terms: Sequence[AnchorTerm], shapes: Mapping[str, tuple[int, int]]) -> str:
    """The same for a notebook, with what it means in words, and a picture where matplotlib and a map are there.

    Args:
        terms: The anchors.
        shapes: {module: (d_out, d_in)} of the weights that they are for.
    """
    said = "".join(f"<p>{escape(plain(remark))}</p>" for remark in remarks(terms, shapes))
    if not (is_installed("matplotlib") and _panels(terms)):
        return as_html(_HEADINGS, _rows(terms), texts=2) + said
    picture = BytesIO()
    spectrum_picture(terms, picture)
    uri = f"data:image/png;base64,{b64encode(picture.getvalue()).decode()}"
    alt = "Eigenvalues of C, a panel a kind of projection, a line a layer"
    return f'{as_html(_HEADINGS, _rows(terms), texts=2)}{said}<img src="{uri}" alt="{alt}">'


def remarks(terms: Sequence[AnchorTerm], shapes: Mapping[str, tuple[int, int]]) -> list[str]:
    """Where an anchor is plain shrinkage, where it over-anchors, and what the anchors weigh.

    Args:
        terms: The anchors.
        shapes: {module: (d_out, d_in)} of the weights that they are for.
    """
    told = [remark for term in terms for remark in _remarks(term, shapes)]
    weights = sum(d_out * d_in for d_out, d_in in shapes.values())
    num_bytes = sum(term.num_bytes for term in terms)
    size = f"Size: {num_bytes / 2**20:.2f} MiB, {num_bytes / (2 * weights):.2%} of the targeted weights at two bytes each."
    return [*told, size]


def spectrum_picture(terms: Sequence[AnchorTerm], path: str | Path | BytesIO) -> None:
    """Write a PNG: the eigenvalues of C, one panel a kind of projection, one line a layer.

    Raises:
        ConfigurationError: If matplotlib is not installed, or no anchor has a map.
    """
    require_extra("matplotlib", "a picture")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure  # no pyplot: a notebook's backend stays as it is
    from matplotlib.ticker import MaxNLocator

    panels = _panels(terms)
    if not panels:
        raise ConfigurationError("a picture shows the eigenvalues of C, and these anchors have no map. Show the table only.")
    figure = Figure(figsize=(4 * len(panels) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    colours = colormaps["viridis"]
    for axis, (title, layers) in zip(axes[0], panels.items(), strict=True):
        for i, anchor in enumerate(layers):
            assert anchor.eigenvalues is not None
            ranks = range(1, len(anchor.eigenvalues) + 1)
            axis.plot(ranks, anchor.eigenvalues, marker=".", lw=1, color=colours(i / max(1, len(layers) - 1)))
        for limit, text in ((1.0, "1: left free"), (2.0, "2: repels")):
            axis.axhline(limit, color="0.4", lw=0.8, ls="--")
            axis.annotate(text, (1.0, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        axis.set_title(plain(title), parse_math=False)  # a dollar in a name is no mathematics
        axis.set(xlabel="direction, of those kept", xscale="log", yscale="log")
    axes[0][0].set_ylabel("eigenvalue c of C")
    depth = ScalarMappable(Normalize(0, max(1, max(map(len, panels.values())) - 1)), colours)
    figure.colorbar(depth, ax=axes[0].tolist(), label="layer", ticks=MaxNLocator(integer=True))
    figure.savefig(path, dpi=120, format="png")


def _panels(terms: Sequence[AnchorTerm]) -> dict[str, list[ModuleAnchor]]:
    """{title: the anchors of one kind of projection, a layer each}, of those with a map."""
    panels: dict[str, list[ModuleAnchor]] = {}
    for name, label, anchor in by_module(terms):
        if anchor.eigenvalues is not None and len(anchor.eigenvalues):
            panels.setdefault(f"{label}, {name.rpartition('.')[2]}", []).append(anchor)
    return panels


def _rows(terms: Sequence[AnchorTerm]) -> list[list[str]]:
    return [[name, label, *_figures(anchor)] for name, label, anchor in by_module(terms)]


def _figures(anchor: ModuleAnchor) -> list[str]:
    s = anchor.spectrum
    sizes = [f"{s.norm:.3f}", f"{s.trace:.3f}", f"{s.largest:.4f}", str(s.kept)]
    return [*sizes, f"{s.energy:.1%}", f"{s.error_bound:.2%}", f"{anchor.num_bytes / 2**10:.1f}"]


def _remarks(term: AnchorTerm, shapes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    if term.relative:
        kept = [anchor.spectrum.kept for anchor in term.modules.values()]
        yield (
            f"{term.label}: {min(kept)} to {max(kept)} directions hold what unsafe prompts put into a layer. Of its inputs "
            "‖V‖_F is the root mean square here, and largest c the share of their energy along one direction."
        )
        if outs := [anchor.out.directions.shape[1] for anchor in term.modules.values() if anchor.out]:
            yield f"{term.label}: {min(outs)} to {max(outs)} directions of a layer's outputs hold what answers depend on."
    maps = {name: a for name, a in term.modules.items() if a.eigenvalues is not None and a.out and a.out.beta}
    if not maps:
        return
    costs = [_mean_cost(anchor, shapes[name][0]) for name, anchor in maps.items()]
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
