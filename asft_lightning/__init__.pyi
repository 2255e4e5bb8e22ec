from . import anchors, callbacks, data, evaluation, functional, landscape, metrics, modules, penalty, projections
from .anchors import (
    Activation,
    Anchor,
    AnchorSet,
    Answers,
    Gram,
    Harmful,
    Probe,
    Random,
    Shrinkage,
    Subspace,
    build_anchors,
)
from .callbacks import (
    AdapterCheckpoint,
    AdapterProjection,
    AlignmentMonitor,
    RefusalEvaluation,
    RubricEvaluation,
    SafeAccuracy,
    SafetyEvaluation,
    UtilityEvaluation,
)
from .chat.rows import Row, Turn
from .chat.template import Template
from .chat.thoughts import split_thought
from .commands.landscape import map_landscape
from .commands.protect import protect
from .data import CATALOGUE, Audit, MixtureDataModule, Source
from .errors import (
    AnchorError,
    AsFTError,
    ConfigurationError,
    DataError,
    StorageError,
    TrainingError,
    UnpenalisedError,
)
from .evaluation import (
    Attack,
    BeaverDamJudge,
    ClassifierJudge,
    Coherence,
    Endpoint,
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
from .metrics import AnswerAccuracy, HarmfulScore, RefusalRate, RubricScore
from .modules import SBR, AsFT, ConstrainedSFT, FullAsFT, FullFineTuner, Lisa, LoRAFineTuner
from .metrics import AnswerAccuracy, HarmfulScore, RefusalRate, RubricScore, WiScore
from .metrics import AnswerAccuracy, HarmfulScore, IncoherenceRate, RefusalRate, RubricScore
from .modules import SBR, AsFT, ConstrainedSFT, Lisa, LoRAFineTuner
from .penalty.answer_budget import AnswerBudget
from .penalty.answer_penalty import AnswerPenalty
from .penalty.drift_budget import DriftBudget
from .penalty.full_update_penalty import FullUpdatePenalty
from .penalty.state_penalty import StatePenalty
from .penalty.update_penalty import UpdatePenalty
from .projections import OffAnchorShrinkage, Projection, SafeLoRA
from .runtime.strategies import FSDP2Strategy
from .weights.pretrained import Pretrained

__all__ = [
    "CATALOGUE",
    "SBR",
    "Activation",
    "AdapterCheckpoint",
    "AdapterProjection",
    "AlignmentMonitor",
    "Anchor",
    "AnchorError",
    "AnchorSet",
    "AnswerAccuracy",
    "AnswerBudget",
    "AnswerPenalty",
    "Answers",
    "AsFT",
    "AsFTError",
    "Attack",
    "Audit",
    "BeaverDamJudge",
    "ClassifierJudge",
    "Coherence",
    "ConfigurationError",
    "ConstrainedSFT",
    "DataError",
    "DriftBudget",
    "Endpoint",
    "EndpointJudge",
    "EndpointRater",
    "FSDP2Strategy",
    "FullAsFT",
    "FullFineTuner",
    "FullUpdatePenalty",
    "Gram",
    "GuardJudge",
    "Harmful",
    "HarmfulScore",
    "IncoherenceRate",
    "Judge",
    "Lisa",
    "LoRAFineTuner",
    "MixtureDataModule",
    "OffAnchorShrinkage",
    "Pretrained",
    "Probe",
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
    "StatePenalty",
    "StorageError",
    "Subspace",
    "Template",
    "TrainingError",
    "Turn",
    "UnpenalisedError",
    "UpdatePenalty",
    "UtilityEvaluation",
    "Verdict",
    "WiScore",
    "anchors",
    "build_anchors",
    "callbacks",
    "data",
    "evaluation",
    "functional",
    "generate_answers",
    "landscape",
    "map_landscape",
    "metrics",
    "modules",
    "penalty",
    "projections",
    "protect",
    "split_thought",
]
