from .anchor import WeightPair, naming, needs_of
from .anchor_set import AnchorSet
from .answers import Answers
from .build import build_anchors, build_anchors_of, require_built_from
from .kept_answers import KeptAnswers
from .measure import AdapterMeasurement, UpdateParts, measure_adapter, update_parts
from .module_anchor import ModuleAnchor
from .probe import Probe
from .term import AnchorTerm, term_labels
from .variants import Activation, Anchor, Gram, Harmful, Random, Shrinkage, Subspace

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
