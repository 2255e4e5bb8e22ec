"""Tables beside the main ones: headline, methods in pairs, judges in pairs; the same in the terminal and on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asft_lightning.comparison.agreement import Agreement
from asft_lightning.comparison.headline import Headline
from asft_lightning.comparison.pairs import Pair
from asft_lightning.comparison.results import Cell, Spread
from asft_lightning.comparison.series import axes_but_poison, poison_title
from asft_lightning.comparison.spec import POISON
from asft_lightning.comparison.statistics import Interval
from asft_lightning.comparison.verdicts import PLAIN


@dataclass(frozen=True)
class Table:
    """What to show.

    Args:
        title: What it is about.
        headings: Of the columns; the first is of text, the others are of figures.
        rows: Their cells.
        note: What has to be known to read it.
        is_long: Whether it is for the page alone.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    is_long: bool = False


def headline_table(headlines: Sequence[Headline]) -> Table:
    """The worst attack first, and what it costs where nobody attacks."""
    is_searched, has_beyond = any(h.searched for h in headlines), any(h.beyond for h in headlines)
    headings = [
        "method", "worst HS (%)", "before (%)", "FA at p 0 (%)", "worst attack", "noise there (%)", "mean HS (%)", "attacks",
        *(["beyond: HS (%)", "beyond: asked"] if has_beyond else []),
        *(["search HS (%)", "found by search"] if is_searched else []),
        "over-refusal (%)", "noise (%)", "time (s)", "memory (MiB)",
    ]  # fmt: skip
    rows = [
        [
            ", ".join(filter(None, [h.method, axes_but_poison(h.axes)])),
            str(h.worst),
            _text(h.before),
            _text(h.accuracy),
            h.attack,
            _text(h.noise),
            f"{h.mean:.1f}",
            str(h.attacks),
            *([_text(h.beyond), h.beyond_attack or "–"] if has_beyond else []),
            *([_text(h.searched), h.found or "nothing"] if is_searched else []),
            *("–" if share is None else f"{share.mean:.1f}" for share in (h.over_refusal, h.incoherent)),
            *("–" if cost is None else f"{cost.mean:.0f}" for cost in (h.training_seconds, h.peak_memory_mib)),
        ]
        for h in headlines
    ]
    note = (
        "An attack is a setting with harmful rows, or another way to ask; the worst has the highest mean HS over seeds. "
        "Before: of the aligned model, asked in the same way. Where more than half of the answers are noise, HS says little."
    )
    if has_beyond:
        note += " Beyond: asked as the aligned model itself does not withstand, which is not training's doing: no attack."
    if is_searched:
        note += " A search tries settings of training on each method, and keeps the worst; it counts for the worst HS alone."
    return Table("Worst attack", headings, rows, note)


def pairs_table(pairs: Sequence[Pair], against: str) -> Table:
    """Differences to one method."""
    headings = [
        "method", "setting", "asked", "seeds", "HS difference", "FA difference", "prompts more / fewer unsafe", "p-value",
    ]  # fmt: skip
    rows = [
        [
            pair.method,
            ", ".join(filter(None, [poison_title(pair.axes.get(POISON)), axes_but_poison(pair.axes)])),
            "plainly" if pair.asked == PLAIN else pair.asked,
            str(pair.seeds),
            _points(pair.harmful_score),
            _points(pair.accuracy),
            "–" if pair.p_value is None else f"{pair.more} / {pair.fewer}",
            "–" if pair.p_value is None else f"{pair.p_value:.2g}",
        ]
        for pair in pairs
    ]
    note = (
        "Points, mean over seeds with Student's 95 % interval, which speaks of other seeds; the p-value is of the exact "
        "sign test over prompts (at one seed McNemar's), which speaks of other prompts, of this one comparison alone."
    )
    return Table(f"Against {against}", headings, rows, note, is_long=True)


def published_table(cells: Sequence[Cell], published: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> Table:
    """One's own means over all settings, each beside what was published.

    Args:
        cells: Of the means, in order.
        published: {method: {figure: percent}}.
        names: {figure: heading}.
    """
    figures = [name for name in names if any(name in known for known in published.values())]
    headings = ["method", *(heading for name in figures for heading in (names[name], "published"))]
    rows = [
        [cell.method, *(text for name in figures for text in (_text(cell.spread(name)), _percent(published, cell, name)))]
        for cell in cells
    ]
    return Table("Beside what was published", headings, rows if figures else [], "Means over all settings.")


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """How far judges say the same."""
    rows = [
        [f"{a.first}, {a.second}", str(a.answers), f"{a.same:.1f}", "–" if a.kappa is None else f"{a.kappa:.2f}"]
        for a in agreements
    ]
    note = "κ is Cohen's: 1 where they always agree, 0 where no more than by chance. HS in the tables is the first judge's."
    return Table("Agreement of judges", ["judges", "answers", "same (%)", "κ"], rows, note)


def _percent(published: Mapping[str, Mapping[str, float]], cell: Cell, name: str) -> str:
    value = published.get(cell.method, {}).get(name)
    return "–" if value is None else f"{value:.1f}"


def _text(spread: Spread | None) -> str:
    return "–" if spread is None else str(spread)


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    ends = "" if interval.low is None or interval.high is None else f" ({interval.low:+.1f} – {interval.high:+.1f})"
    return f"{interval.mean:+.1f}{ends}"
