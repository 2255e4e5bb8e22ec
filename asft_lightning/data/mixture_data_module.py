"""MixtureDataModule: benign and harmful rows in, batches out."""

import os
from typing import cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

from asft_lightning.data.collate import AnswerOnlyCollator
from asft_lightning.data.mixture import Example, Mixture, harmful_count, mix
from asft_lightning.data.resumable_loader import ResumableLoader
from asft_lightning.data.source import Row, Source
from asft_lightning.errors import DataError
from asft_lightning.pretrained import Pretrained
from asft_lightning.templates import Template


class MixtureDataModule(LightningDataModule):
    """n training rows of which a share p is harmful (arXiv 2506.08473, section 4: n 1000, p 0.1).

    Args:
        pretrained: Whose tokenizer to use.
        benign: The fine-tuning task's rows.
        harmful: Rows of unsafe requests with complying answers; needed where ``poison_ratio`` > 0.
        template: How rows are written for the model; the same object renders scored prompts.
        num_rows: n, all training rows together.
        poison_ratio: p, the harmful share of them, 0..1; round(p·n) rows.
        val_rows: Further benign rows, held out for the validation loss.
        batch_size: Rows a batch and device.
        group_by_length: Train on batches of rows of similar length, as Transformers' Trainer does under this name: less
            padding. Rows of one kind then meet in a batch more often, which changes training a little.
        seed: Which rows are drawn, and their order; null takes the run's ``seed_everything``.
        num_workers: Processes that collate; 0 is best for rows that are already token ids.

    Raises:
        DataError: If a count, a share or a source cannot be used.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        benign: Source,
        harmful: Source | None = None,
        template: Template = Template(),  # noqa: B008 (frozen)
        num_rows: int = 1000,
        poison_ratio: float = 0.1,
        val_rows: int = 0,
        batch_size: int = 8,
        group_by_length: bool = False,
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if harmful_count(num_rows, poison_ratio) and harmful is None:
            raise DataError(f"poison_ratio {poison_ratio} needs a harmful source, got none. Give `harmful`, or p = 0.")
        if batch_size < 1 or val_rows < 0:
            raise DataError(f"batch_size must be ≥ 1 and val_rows ≥ 0, got {batch_size} and {val_rows}. Paper: 8 and 0.")
        self.pretrained = pretrained
        self.benign = benign
        self.harmful = harmful
        self.template = template
        self.num_rows = num_rows
        self.poison_ratio = poison_ratio
        self.val_rows = val_rows
        self.batch_size = batch_size
        self.group_by_length = group_by_length
        self.seed = seed
        self.num_workers = num_workers
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self._mixture: Mixture | None = None

    @property
    def mixture(self) -> Mixture:
        """The rows of this run."""
        if self._mixture is None:
            raise RuntimeError("rows are drawn in setup(): call datamodule.setup() first")
        return self._mixture

    @property
    def harmful_prompts(self) -> frozenset[str]:
        """Prompts of the harmful training rows: none of them may be scored."""
        return frozenset(example.row.prompt for example in self.mixture.train if example.harmful)

    def fingerprint(self) -> dict[str, object]:
        """What was trained on, to record beside a result."""
        return {
            "data_sha256": self.mixture.fingerprint(),
            "rows": len(self.mixture.train),
            "harmful_rows": sum(example.harmful for example in self.mixture.train),
            "dropped_rows": self.mixture.dropped,
        }

    def prepare_data(self) -> None:
        """Read everything once before models are loaded, so that a mistake in the data shows first."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load, render and draw the rows; the same on every rank."""
        if self._mixture is None:
            tokenizer = self.tokenizer = self.pretrained.load_tokenizer()

            def encode(row: Row) -> tuple[list[int], list[int]]:
                return self.template.row_ids(tokenizer, row.prompt, row.answer)

            self._mixture = mix(
                self.benign.load(),
                self.harmful.load() if self.harmful and self.poison_ratio else [],
                encode,
                num_rows=self.num_rows,
                poison_ratio=self.poison_ratio,
                held_out=self.val_rows,
                seed=self._seed(),
            )

    def train_dataloader(self) -> DataLoader[Example]:
        """Shuffled batches; each epoch's order follows from the seed alone, on any number of ranks."""
        return self._loader(self.mixture.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Example] | list[object]:
        """The held-out rows."""
        return self._loader(self.mixture.held_out, shuffle=False) if self.val_rows else []

    def test_dataloader(self) -> DataLoader[Example] | list[object]:
        """The held-out rows; harmful score and accuracy have prompts of their own."""
        return self.val_dataloader()

    def _loader(self, examples: list[Example], shuffle: bool) -> DataLoader[Example]:
        dataset = cast("Dataset[Example]", examples)
        assert self.tokenizer is not None
        return ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=self._sampler(examples, shuffle),
            num_workers=self.num_workers,
            collate_fn=AnswerOnlyCollator(cast(int, self.tokenizer.pad_token_id)),
        )

    def _sampler(self, examples: list[Example], shuffle: bool) -> DistributedSampler[Example]:
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if shuffle and self.group_by_length:
            lengths = [len(example.prompt_ids) + len(example.answer_ids) for example in examples]
            sampler: DistributedSampler[Example] = DistributedLengthGroupedSampler(
                self.batch_size * world, num_replicas=world, rank=rank, seed=self._seed(), lengths=lengths
            )
            return sampler
        dataset = cast("Dataset[Example]", examples)
        return DistributedSampler(dataset, world, rank, shuffle=shuffle, seed=self._seed())

    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed
