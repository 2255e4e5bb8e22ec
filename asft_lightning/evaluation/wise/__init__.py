"""WISE (arXiv 2503.07265): images rated by a vision model on what their prompts only imply."""

from asft_lightning.evaluation.wise.images import find_images
from asft_lightning.evaluation.wise.kept_replies import KeptReplies
from asft_lightning.evaluation.wise.rater import ImageRating, WiseRater
from asft_lightning.evaluation.wise.records import WiseRecord, by_subcategory, read_records
from asft_lightning.evaluation.wise.report import WiseReport

__all__ = [
    "ImageRating",
    "KeptReplies",
    "WiseRater",
    "WiseRecord",
    "WiseReport",
    "by_subcategory",
    "find_images",
    "read_records",
]
