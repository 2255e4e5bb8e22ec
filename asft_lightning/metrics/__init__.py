"""What a run is measured by: torchmetrics classes over plain functions, in percent."""

from asft_lightning.metrics.answer_accuracy import AnswerAccuracy, answer_accuracy, is_correct, named_label
from asft_lightning.metrics.harmful_score import HarmfulScore, harmful_score

__all__ = ["AnswerAccuracy", "HarmfulScore", "answer_accuracy", "harmful_score", "is_correct", "named_label"]
