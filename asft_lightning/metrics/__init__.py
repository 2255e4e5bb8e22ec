"""What a run is measured by: torchmetrics classes over plain functions, in percent; WiScore is 0 to 1, as published."""

from asft_lightning.metrics.answer_accuracy import AnswerAccuracy, AnswerRule, answer_accuracy
from asft_lightning.metrics.answer_text import final_number, named_label
from asft_lightning.metrics.harmful_score import HarmfulScore, harmful_score
from asft_lightning.metrics.incoherence_rate import IncoherenceRate, incoherence_rate
from asft_lightning.metrics.multi_label import MultiLabelScores, best_thresholds, multi_label_scores, row_jaccard
from asft_lightning.metrics.refusal_rate import RefusalRate, refusal_rate
from asft_lightning.metrics.rubric_score import RubricScore, rubric_score
from asft_lightning.metrics.share import GroupShare, Share, share, share_by_group, wilson_interval
from asft_lightning.metrics.wiscore import WISE_VERSIONS, GroupScore, WiScore, WiseVersion, wiscore, wise_overall

__all__ = [
    "WISE_VERSIONS",
    "AnswerAccuracy",
    "AnswerRule",
    "GroupScore",
    "GroupShare",
    "HarmfulScore",
    "IncoherenceRate",
    "MultiLabelScores",
    "RefusalRate",
    "RubricScore",
    "Share",
    "WiScore",
    "WiseVersion",
    "answer_accuracy",
    "best_thresholds",
    "final_number",
    "harmful_score",
    "incoherence_rate",
    "multi_label_scores",
    "named_label",
    "refusal_rate",
    "row_jaccard",
    "rubric_score",
    "share",
    "share_by_group",
    "wilson_interval",
    "wiscore",
    "wise_overall",
]
