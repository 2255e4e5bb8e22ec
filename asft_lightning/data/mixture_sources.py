"""The sources of a mixture: which there have to be, a name for each, and their rows."""

from collections import Counter
from collections.abc import Mapping
from functools import partial

from asft_lightning.chat.rows import Kind, Row
from asft_lightning.data.by_turns import listed
from asft_lightning.data.draw import Pool
from asft_lightning.data.mixture import harmful_count
from asft_lightning.data.source import Source
from asft_lightning.errors import DataError


def require_sources(
    benign: Source | list[Source],
    harmful: Source | list[Source] | None,
    safety: Source | list[Source] | None,
    num_rows: int | None,
    poison_ratio: float,
    safety_rows: int,
) -> None:
    """Refuse numbers of rows without a source of them; the arguments are those of the data module.

    Raises:
        DataError: If a kind of rows is asked for without a source, or a number cannot be.
    """
    _require_source("benign", "num_rows", num_rows, benign)
    if harmful_count(1 if num_rows is None else num_rows, poison_ratio) or (num_rows is None and poison_ratio):
        _require_source("harmful", "poison_ratio", poison_ratio, harmful)
    if safety_rows:
        _require_source("safety", "safety_rows", safety_rows, safety)


def _require_source(kind: Kind, setting: str, value: float | None, source: Source | list[Source] | None) -> None:
    """Refuse a kind of rows that is asked for without a source, or a source that nothing is asked of.

    Args:
        kind: What its rows are there for.
        setting: Which setting asks for them.
        value: That setting's; None for all there are.
        source: What was given.

    Raises:
        DataError: If they do not fit.
    """
    if not source or (value is not None and value <= 0):
        raise DataError(
            f"{setting} {value} needs a {kind} source, and a {kind} source a {setting} above 0, got "
            f"{'no source' if not source else f'{setting} {value}'}. Give `{kind}` and {setting}, or neither."
        )


def named(sources: dict[Kind, Source | list[Source] | None]) -> dict[str, tuple[Kind, Source]]:
    """{a name of its own: what it is used as, source}: its path, with a number where that comes again."""
    by_name: dict[str, tuple[Kind, Source]] = {}
    for kind, given in sources.items():
        for source in listed(given):
            before = sum(name == source.path or name.startswith(f"{source.path} (") for name in by_name)
            by_name[source.path + (f" ({before + 1})" if before else "")] = kind, source
    return by_name


def pools(sources: Mapping[str, tuple[Kind, Source]], kind: Kind) -> list[Pool]:
    """The rows of every source of this kind, read unless they are streamed.

    Args:
        sources: Of :func:`named`.
        kind: What they are used as.
    """
    pools_of_kind = []
    for name, (used_as, source) in sources.items():
        if used_as == kind:
            counts: Counter[str] = Counter()
            rows = map(partial(Row.of_kind, kind=kind), source.iterate(counts))  # or drawing would make each anew
            pools_of_kind.append(Pool(rows if source.streaming else list(rows), kind, name, source.weight, counts))
    return pools_of_kind
