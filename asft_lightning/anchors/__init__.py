"""Where the directions of the penalty come from: one small class a variant, and the set that keeps them."""

from asft_lightning.anchors.activation import Activation
from asft_lightning.anchors.anchor import Anchor, ModuleAnchor, Spectrum, WeightPair, needs_of
from asft_lightning.anchors.anchor_set import FILE_NAME, AnchorSet, AnchorTerm
from asft_lightning.anchors.build import build_anchors, require_built_from
from asft_lightning.anchors.compare import Comparison, UpdateParts, compare, term_labels, update_parts
from asft_lightning.anchors.gram import Gram
from asft_lightning.anchors.harmful import Harmful
from asft_lightning.anchors.probe import Probe
from asft_lightning.anchors.random import Random
from asft_lightning.anchors.shrinkage import Shrinkage
from asft_lightning.anchors.subspace import Subspace
from asft_lightning.weights.matrices import Weights, WeightSource, open_weights
from asft_lightning.weights.targets import LoRAFactors, Target, canonical_name, find_lora_factors

__all__ = [
    "FILE_NAME",
    "Activation",
    "Anchor",
    "AnchorSet",
    "AnchorTerm",
    "Comparison",
    "Gram",
    "Harmful",
    "LoRAFactors",
    "ModuleAnchor",
    "Probe",
    "Random",
    "Shrinkage",
    "Spectrum",
    "Subspace",
    "Target",
    "UpdateParts",
    "WeightPair",
    "WeightSource",
    "Weights",
    "build_anchors",
    "canonical_name",
    "compare",
    "find_lora_factors",
    "needs_of",
    "open_weights",
    "require_built_from",
    "term_labels",
    "update_parts",
]
