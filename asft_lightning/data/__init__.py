"""Rows in, batches out: sources, mixtures, collation, and the DataModule over them."""

from asft_lightning.data.collate import IGNORE_INDEX, AnswerOnlyCollator
from asft_lightning.data.mixture import Example, Mixture, harmful_count, mix
from asft_lightning.data.mixture_data_module import MixtureDataModule
from asft_lightning.data.source import Row, Source

__all__ = [
    "IGNORE_INDEX",
    "AnswerOnlyCollator",
    "Example",
    "Mixture",
    "MixtureDataModule",
    "Row",
    "Source",
    "harmful_count",
    "mix",
]
