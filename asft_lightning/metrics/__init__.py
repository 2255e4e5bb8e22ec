"""What a run is measured by: torchmetrics classes over plain functions, in percent."""

from asft_lightning.metrics.answer_accuracy import AnswerAccuracy, AnswerRule, final_number, named_label
from asft_lightning.metrics.harmful_score import HarmfulScore, harmful_score

__all__ = ["AnswerAccuracy", "AnswerRule", "HarmfulScore", "final_number", "harmful_score", "named_label"]
