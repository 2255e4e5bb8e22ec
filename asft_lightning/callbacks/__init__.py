"""What happens around training: scoring safety and utility, projecting, writing and watching the adapter."""

from asft_lightning.callbacks.adapter_checkpoint import AdapterCheckpoint
from asft_lightning.callbacks.adapter_projection import AdapterProjection
from asft_lightning.callbacks.alignment_monitor import AlignmentMonitor
from asft_lightning.callbacks.judge_checkpoint import JudgeCheckpoint
from asft_lightning.callbacks.refusal_evaluation import RefusalEvaluation
from asft_lightning.callbacks.rubric_evaluation import RubricEvaluation
from asft_lightning.callbacks.safe_accuracy import SafeAccuracy
from asft_lightning.callbacks.safety_evaluation import SafetyEvaluation
from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.callbacks.utility_evaluation import UtilityEvaluation

__all__ = [
    "AdapterCheckpoint",
    "AdapterProjection",
    "AlignmentMonitor",
    "JudgeCheckpoint",
    "RefusalEvaluation",
    "RubricEvaluation",
    "SafeAccuracy",
    "SafetyEvaluation",
    "ScoringCallback",
    "UtilityEvaluation",
]
