"""LabelledDataModule: answers whose kinds of harm are known, for a judge to learn from."""

import hashlib
import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from asft_lightning.data.by_turns import listed
from asft_lightning.data.resumable_loader import ResumableLoader, epoch_sampler
from asft_lightning.data.same_rows import batches, require_same
from asft_lightning.data.source import Source
from asft_lightning.errors import DataError


class LabelledRow(NamedTuple):
    """A prompt, its answer, and which labels that has.

    Attributes:
        prompt: All that was said up to the prompt.
        answer: What is judged.
        labels: Whether it has each of the module's labels, in their order.
    """

    prompt: str
    answer: str
    labels: tuple[bool, ...]


class LabelledDataModule(LightningDataModule):
    """Rows with several labels or none: each source names a ``category`` column, of text, of a list, or of {label: whether}.

    A source without ``category`` has rows without any label, e.g. of harmless answers.

    Args:
        labels: All labels, in the order of the judge's outputs.
        train: One source, or several, all of whose rows are used.
        val: What the thresholds are chosen on; null for ``val_rows`` rows that are drawn from ``train`` and left out of it.
        test: What the judge is tested on, if anything.
        val_rows: How many rows are held out where ``val`` is null.
        batch_size: Rows a batch and device.
        seed: Of the draw and the order; null takes the run's ``seed_everything``.
        group_by_length: Train on batches of rows of similar length, as Transformers' Trainer does under this name: less
            padding. What is scored is in order of length always.

    Raises:
        DataError: If a count or a label cannot be used.
    """

    def __init__(
        self,
        labels: list[str],
        train: Source | list[Source],
        val: Source | list[Source] | None = None,
        test: Source | list[Source] | None = None,
        val_rows: int = 0,
        batch_size: int = 16,
        seed: int | None = None,
        group_by_length: bool = False,
    ) -> None:
        super().__init__()
        if not labels or len(set(labels)) < len(labels):
            raise DataError(f"labels must be different names, at least one, got {labels}. Name each once.")
        if batch_size < 1 or val_rows < 0 or (val is not None and val_rows):
            raise DataError(
                f"batch_size must be ≥ 1, val_rows ≥ 0, and 0 beside val, got {batch_size} and {val_rows}. Leave val_rows "
                "out where val has rows of its own."
            )
        self.labels = labels
        self.sources = {"train": listed(train), "val": listed(val), "test": listed(test)}
        self.val_rows = val_rows
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.rows: dict[str, list[LabelledRow]] = {}

    def prepare_data(self) -> None:
        """Read everything once before a model is loaded, so that a mistake in the data shows first."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read the rows; the same on every rank.

        Raises:
            DataError: If a row has a label that is not named, or there are too few rows.
        """
        if self.rows:
            return
        rows = {part: [row for source in sources for row in self._read(source)] for part, sources in self.sources.items()}
        if self.val_rows >= len(rows["train"]):
            raise DataError(
                f"val_rows must leave rows to train on, got {self.val_rows} of {len(rows['train'])}. Ask for fewer."
            )
        if self.val_rows:
            rows["val"], rows["train"] = _drawn(rows["train"], self.val_rows, self._seed())
        self.rows = {"train": rows["train"], "val": _by_length(rows["val"]), "test": _by_length(rows["test"])}

    def shares(self) -> list[float]:
        """Of each label, the share of the training rows that have it."""
        train = self.rows["train"]
        return [sum(row.labels[i] for row in train) / len(train) for i in range(len(self.labels))]

    def train_dataloader(self) -> DataLoader[LabelledRow]:
        """Shuffled batches of rows; each epoch's order follows from the seed alone, on any number of ranks."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[LabelledRow] | list[object]:
        """What the thresholds are chosen on, if anything."""
        return self._loader("val", shuffle=False) if self.rows["val"] else []

    def test_dataloader(self) -> DataLoader[LabelledRow] | list[object]:
        """What the judge is tested on, if anything."""
        return self._loader("test", shuffle=False) if self.rows["test"] else []

    def state_dict(self) -> dict[str, Any]:
        """What tells these rows from others, for a run that is resumed."""
        train = self.rows["train"]
        digest = hashlib.sha256(repr([tuple(row) for row in train]).encode()).hexdigest()
        world = self.trainer.world_size if self.trainer else 1
        rows = {"data_sha256": digest, "rows": str(len(train)), "texts_sha256": digest}
        return rows | batches(self.batch_size * world, self.group_by_length)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the rows with those that the run began with.

        Raises:
            DataError: If they are others, and are to be trained on.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            require_same(state_dict, self.state_dict())

    def _read(self, source: Source) -> list[LabelledRow]:
        rows = source.load()
        if unknown := sorted({label for row in rows for label in row.categories} - set(self.labels)):
            raise DataError(
                f"{source.path}: a row's labels must be among {', '.join(self.labels)}, got {unknown[0]!r}. Name all labels."
            )
        return [
            LabelledRow(row.asked(), row.answer, tuple(label in row.categories for label in self.labels)) for row in rows
        ]

    def _loader(self, part: str, shuffle: bool) -> DataLoader[LabelledRow]:
        rows = self.rows[part]
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        by_length = self.batch_size if shuffle and self.group_by_length else None
        texts = [_text(row) for row in rows]
        return ResumableLoader(
            cast("Dataset[LabelledRow]", rows),
            batch_size=self.batch_size,
            sampler=epoch_sampler(texts, world, rank, self._seed(), shuffle, by_length),
            collate_fn=list,
        )

    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed


def _text(row: LabelledRow) -> str:
    return row.prompt + row.answer


def _by_length(rows: Sequence[LabelledRow]) -> list[LabelledRow]:
    """The longest first, so that a lack of memory shows at once."""
    return sorted(rows, key=lambda row: -len(_text(row)))


def _drawn(rows: Sequence[LabelledRow], count: int, seed: int) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """So many rows, and the others; each in their order."""
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return [rows[i] for i in sorted(chosen)], [row for i, row in enumerate(rows) if i not in chosen]
