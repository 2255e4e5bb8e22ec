"""ExampleBatches: how a data module's rows become batches."""

import os
from abc import abstractmethod
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from asft_lightning.data.audit import Audit
from asft_lightning.data.collate import AnswerOnlyCollator
from asft_lightning.data.endless_batches import EndlessBatches
from asft_lightning.data.example import Example
from asft_lightning.data.mixture import Mixture
from asft_lightning.data.resumable_loader import ResumableLoader, epoch_sampler
from asft_lightning.data.rulings import require_audited


class ExampleBatches(LightningDataModule):
    """The loaders of a data module whose rows are token ids.

    A part of :class:`MixtureDataModule`, whose arguments its attributes are.
    """

    val_rows: int
    batch_size: int
    group_by_length: bool
    packing: bool
    seed: int | None
    num_workers: int
    audit: Audit | None
    tokenizer: PreTrainedTokenizerBase | None

    @property
    @abstractmethod
    def mixture(self) -> Mixture:
        """The rows."""

    def train_dataloader(self) -> DataLoader[Example]:
        """Shuffled batches; each epoch's order follows from the seed alone, on any number of ranks.

        Raises:
            DataError: If an audit is asked for, and none was made.
        """
        require_audited(self.mixture, self.audit)
        return self._loader(self.mixture.train, shuffle=True)

    @property
    def safety_batches(self) -> EndlessBatches | None:
        """This rank's batches of the safety rows that are kept apart; None where there are none."""
        if not self.mixture.apart:
            return None
        return EndlessBatches(self.mixture.apart, self.batch_size, self._collator(), self._seed(), *self._ranks())

    def val_dataloader(self) -> DataLoader[Example] | list[object]:
        """The held-out rows."""
        return self._loader(self.mixture.held_out, shuffle=False) if self.val_rows else []

    def test_dataloader(self) -> DataLoader[Any]:
        """The held-out rows, or one batch of nothing: without any Lightning passes over the callbacks that score."""
        nothing = cast("Dataset[None]", [None])
        return self._loader(self.mixture.held_out, shuffle=False) if self.val_rows else DataLoader(nothing, batch_size=None)

    def _loader(self, examples: list[Example], shuffle: bool) -> DataLoader[Example]:
        by_length = self.batch_size if shuffle and self.group_by_length else None
        return ResumableLoader(
            cast("Dataset[Example]", examples),
            batch_size=self.batch_size,
            sampler=epoch_sampler(examples, *self._ranks(), self._seed(), shuffle, by_length),
            num_workers=self.num_workers,
            collate_fn=self._collator(),
        )

    def _collator(self) -> AnswerOnlyCollator:
        assert self.tokenizer is not None
        return AnswerOnlyCollator(cast(int, self.tokenizer.pad_token_id), self.packing)

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed
