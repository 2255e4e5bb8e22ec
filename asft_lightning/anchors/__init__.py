"""Where the directions of the penalty come from: one small class a variant, and the set that keeps them."""

from asft_lightning.anchors.activation import Activation
from asft_lightning.anchors.anchor import Anchor, ModuleAnchor, WeightPair, naming, needs_of
from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.anchors.answers import Answers
from asft_lightning.anchors.build import build_anchors, build_anchors_of, require_built_from
from asft_lightning.anchors.gram import Gram
from asft_lightning.anchors.harmful import Harmful
from asft_lightning.anchors.kept_answers import KeptAnswers
from asft_lightning.anchors.measure import AdapterMeasurement, UpdateParts, measure_adapter, update_parts
from asft_lightning.anchors.probe import Probe
from asft_lightning.anchors.random import Random
from asft_lightning.anchors.shrinkage import Shrinkage
from asft_lightning.anchors.subspace import Subspace
from asft_lightning.anchors.term import AnchorTerm, term_labels

__all__ = [
    "Activation",
    "AdapterMeasurement",
    "Anchor",
    "AnchorSet",
    "AnchorTerm",
    "Answers",
    "Gram",
    "Harmful",
    "KeptAnswers",
    "ModuleAnchor",
    "Probe",
    "Random",
    "Shrinkage",
    "Subspace",
    "UpdateParts",
    "WeightPair",
    "build_anchors",
    "build_anchors_of",
    "measure_adapter",
    "naming",
    "needs_of",
    "require_built_from",
    "term_labels",
    "update_parts",
]
