"""AsFT (arXiv 2506.08473) for PyTorch Lightning: fine-tune an aligned language model and keep it safe."""

from asft_lightning.anchors import Anchor, AnchorSet, Gram, Harmful, Random, Shrinkage, Subspace, build_anchors
from asft_lightning.callbacks import (
    AdapterCheckpoint,
    AdapterProjection,
    AlignmentMonitor,
    RefusalEvaluation,
    RubricEvaluation,
    SafeAccuracy,
    SafetyEvaluation,
    UtilityEvaluation,
)
from asft_lightning.data import CATALOGUE, MixtureDataModule, Row, Source, Turn
from asft_lightning.errors import (
    AnchorError,
    AsFTError,
    ConfigurationError,
    DataError,
    StorageError,
    TrainingError,
    UnpenalisedError,
)
from asft_lightning.evaluation import (
    Attack,
    BeaverDamJudge,
    ClassifierJudge,
    EndpointJudge,
    EndpointRater,
    GuardJudge,
    Judge,
    Rater,
    Rating,
    RefusalJudge,
    Verdict,
    generate_answers,
)
from asft_lightning.metrics import AnswerAccuracy, HarmfulScore, RefusalRate, RubricScore
from asft_lightning.modules import AsFT, Lisa, LoRAFineTuner
from asft_lightning.penalty import UpdatePenalty
from asft_lightning.pretrained import Pretrained
from asft_lightning.projections import OffAnchorShrinkage, Projection, SafeLoRA
from asft_lightning.strategies import FSDP2Strategy
from asft_lightning.templates import Template

__all__ = [
    "CATALOGUE",
    "AdapterCheckpoint",
    "AdapterProjection",
    "AlignmentMonitor",
    "Anchor",
    "AnchorError",
    "AnchorSet",
    "AnswerAccuracy",
    "AsFT",
    "AsFTError",
    "Attack",
    "BeaverDamJudge",
    "ClassifierJudge",
    "ConfigurationError",
    "DataError",
    "EndpointJudge",
    "EndpointRater",
    "FSDP2Strategy",
    "Gram",
    "GuardJudge",
    "Harmful",
    "HarmfulScore",
    "Judge",
    "Lisa",
    "LoRAFineTuner",
    "MixtureDataModule",
    "OffAnchorShrinkage",
    "Pretrained",
    "Projection",
    "Random",
    "Rater",
    "Rating",
    "RefusalEvaluation",
    "RefusalJudge",
    "RefusalRate",
    "Row",
    "RubricEvaluation",
    "RubricScore",
    "SafeAccuracy",
    "SafeLoRA",
    "SafetyEvaluation",
    "Shrinkage",
    "Source",
    "StorageError",
    "Subspace",
    "Template",
    "TrainingError",
    "Turn",
    "UnpenalisedError",
    "UpdatePenalty",
    "UtilityEvaluation",
    "Verdict",
    "build_anchors",
    "generate_answers",
]
