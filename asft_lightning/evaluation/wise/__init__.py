"""WISE (arXiv 2503.07265): images rated by a vision model on what their prompts only imply."""

from asft_lightning.evaluation.wise.records import WiseRecord, by_subcategory, read_records

__all__ = ["WiseRecord", "by_subcategory", "read_records"]
