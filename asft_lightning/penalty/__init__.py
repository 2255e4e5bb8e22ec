"""What protects a live model: the anchors bound to what is trained of it, as a penalty or as a budget."""

from asft_lightning.penalty.answer_budget import AnswerBudget
from asft_lightning.penalty.answer_penalty import AnswerPenalty
from asft_lightning.penalty.drift_budget import DriftBudget
from asft_lightning.penalty.full_update_penalty import FullUpdatePenalty
from asft_lightning.penalty.reference_penalty import ReferencePenalty
from asft_lightning.penalty.safety_module import SafetyModule
from asft_lightning.penalty.state_penalty import StatePenalty
from asft_lightning.penalty.update_penalty import UpdatePenalty, probed_prompts

__all__ = [
    "AnswerBudget",
    "AnswerPenalty",
    "DriftBudget",
    "FullUpdatePenalty",
    "ReferencePenalty",
    "SafetyModule",
    "StatePenalty",
    "UpdatePenalty",
    "probed_prompts",
]
