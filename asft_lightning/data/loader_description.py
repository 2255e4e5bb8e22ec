"""What a LightningDataModule of any kind would have trained on: rows and batches of its loaders, and the first rows."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from asft_lightning.errors import DataError
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import say

_PARTS = {"train": "fit", "val": "fit", "test": "test"}
"""{part: the stage that it is set up for}."""
_LONGEST = 2000
"""Characters of a text that are shown."""


class LoaderFacts(NamedTuple):
    """What is known of a loader.

    Attributes:
        part: ``train``, ``val`` or ``test``.
        rows: How many; None where the data set does not tell.
        batches: How many; None likewise.
        first: The first row, in text; blank where there is none.
    """

    part: str
    rows: int | None
    batches: int | None
    first: str


def describe_loaders(data: LightningDataModule) -> list[LoaderFacts]:
    """A data module's loaders, as they are without a trainer.

    Raises:
        DataError: If it has none.
    """
    parts = [part for part in _PARTS if is_overridden(f"{part}_dataloader", data, LightningDataModule)]
    if not parts:
        raise DataError(
            f"describe needs a LightningDataModule with a train_dataloader, and {type(data).__name__} has no dataloader. "
            "Write one, or set data to a MixtureDataModule."
        )
    data.prepare_data()
    facts = []
    for part in parts:
        data.setup(_PARTS[part])
        loaders = getattr(data, f"{part}_dataloader")()
        facts += [
            _facts(part, loader, getattr(data, "tokenizer", None)) for loader in CombinedLoader(loaders or []).flattened
        ]
    return facts


def show_loaders(facts: list[LoaderFacts]) -> None:
    """Print them as a table, with the first row of each below it."""
    rows = [[fact.part, _count(fact.rows), _count(fact.batches)] for fact in facts]
    show(Sheet(["part", "rows", "batches"], rows, "Rows"))
    for fact in facts:
        if fact.first:
            say("", f"── {fact.part}: first row", fact.first)


def _facts(part: str, loader: Any, tokenizer: Any) -> LoaderFacts:
    rows = getattr(loader, "dataset", loader)
    (*first,) = islice(iter(rows), 1)
    text = "" if not first else "\n".join(_lines(first[0], tokenizer))
    return LoaderFacts(part, _length(rows), _length(loader), text)


def _lines(row: Any, tokenizer: Any) -> list[str]:
    """A line a column."""
    columns = row._asdict() if hasattr(row, "_asdict") else row
    if not isinstance(columns, Mapping):
        return [_shown(row)]
    lines = [f"{name}: {_shown(value)}" for name, value in columns.items()]
    if tokenizer is not None and "input_ids" in columns:
        lines.append(f"as text: {_shown(tokenizer.decode(columns['input_ids']))}")
    return lines


def _shown(value: Any) -> str:
    """A tensor by its shape and type, anything else as it is, up to a length."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):  # of a stream
        return None


def _count(number: int | None) -> str:
    return "?" if number is None else str(number)
