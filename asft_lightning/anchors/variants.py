"""All variants, and what they are variants of: whoever takes that from here can have a config name any of them in short."""

from asft_lightning.anchors.activation import Activation
from asft_lightning.anchors.anchor import Anchor
from asft_lightning.anchors.gram import Gram
from asft_lightning.anchors.harmful import Harmful
from asft_lightning.anchors.random import Random
from asft_lightning.anchors.shrinkage import Shrinkage
from asft_lightning.anchors.subspace import Subspace

__all__ = ["Activation", "Anchor", "Gram", "Harmful", "Random", "Shrinkage", "Subspace"]
