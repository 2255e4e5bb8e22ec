"""Rows in, batches out: sources, mixtures, collation, and the DataModule over them."""

from asft_lightning.data.audit import Audit
from asft_lightning.data.catalogue import CATALOGUE, Entry, register_entry
from asft_lightning.data.collate import AnswerOnlyCollator
from asft_lightning.data.columns import Columns
from asft_lightning.data.description import describe, show_description
from asft_lightning.data.draw import Pool
from asft_lightning.data.endless_batches import EndlessBatches
from asft_lightning.data.example import Example
from asft_lightning.data.labelled_data_module import LabelledDataModule, LabelledRow
from asft_lightning.data.mixture import Mixture, harmful_count, mix
from asft_lightning.data.mixture_data_module import MixtureDataModule
from asft_lightning.data.readers import register_reader
from asft_lightning.data.source import Source

__all__ = [
    "CATALOGUE",
    "AnswerOnlyCollator",
    "Audit",
    "Columns",
    "EndlessBatches",
    "Entry",
    "Example",
    "LabelledDataModule",
    "LabelledRow",
    "Mixture",
    "MixtureDataModule",
    "Pool",
    "Source",
    "describe",
    "harmful_count",
    "mix",
    "register_entry",
    "register_reader",
    "show_description",
]
