"""AsFT (arXiv 2506.08473) for PyTorch Lightning: fine-tune an aligned language model and keep it safe."""

from asft_lightning.anchors import Anchor, AnchorSet, Gram, Harmful, Shrinkage, Subspace, build_anchors
from asft_lightning.callbacks import AdapterCheckpoint, SafetyEvaluation, UtilityEvaluation
from asft_lightning.data import MixtureDataModule, Source
from asft_lightning.errors import AnchorError, AsFTError, ConfigurationError, DataError, UnpenalisedError
from asft_lightning.evaluation import Judge, RefusalJudge, Verdict, generate_answers
from asft_lightning.metrics import AnswerAccuracy, HarmfulScore
from asft_lightning.modules import AsFT, LoRAFineTuner
from asft_lightning.penalty import UpdatePenalty
from asft_lightning.pretrained import Pretrained
from asft_lightning.templates import Template

__all__ = [
    "AdapterCheckpoint",
    "Anchor",
    "AnchorError",
    "AnchorSet",
    "AnswerAccuracy",
    "AsFT",
    "AsFTError",
    "ConfigurationError",
    "DataError",
    "Gram",
    "Harmful",
    "HarmfulScore",
    "Judge",
    "LoRAFineTuner",
    "MixtureDataModule",
    "Pretrained",
    "RefusalJudge",
    "SafetyEvaluation",
    "Shrinkage",
    "Source",
    "Subspace",
    "Template",
    "UnpenalisedError",
    "UpdatePenalty",
    "UtilityEvaluation",
    "Verdict",
    "build_anchors",
    "generate_answers",
]
