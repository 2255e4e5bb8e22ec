"""Where the directions of the penalty come from: one small class a variant, and the set that keeps them."""

from asft_lightning.anchors.anchor import Anchor, ModuleAnchor, Spectrum, WeightPair
from asft_lightning.anchors.anchor_set import AnchorSet, AnchorTerm
from asft_lightning.anchors.build import build_anchors
from asft_lightning.anchors.checkpoints import Weights, WeightSource, open_weights
from asft_lightning.anchors.gram import Gram
from asft_lightning.anchors.harmful import Harmful
from asft_lightning.anchors.shrinkage import Shrinkage
from asft_lightning.anchors.subspace import Subspace
from asft_lightning.anchors.targets import LoRAFactors, Target, canonical_name, find_lora_factors

__all__ = [
    "Anchor",
    "AnchorSet",
    "AnchorTerm",
    "Gram",
    "Harmful",
    "LoRAFactors",
    "ModuleAnchor",
    "Shrinkage",
    "Spectrum",
    "Subspace",
    "Target",
    "WeightPair",
    "WeightSource",
    "Weights",
    "build_anchors",
    "canonical_name",
    "find_lora_factors",
    "open_weights",
]
