"""Repairs of a finished adapter: its update is taken back to the alignment direction, without training."""

from asft_lightning.projections.live import project_model
from asft_lightning.projections.off_anchor_shrinkage import OffAnchorShrinkage
from asft_lightning.projections.projection import Layer, ProjectedLayer, Projection, projection_table, record
from asft_lightning.projections.safe_lora import SafeLoRA
from asft_lightning.projections.safe_merge import SafeMERGE
from asft_lightning.projections.safety_vector import SafetyVector

__all__ = [
    "Layer",
    "OffAnchorShrinkage",
    "ProjectedLayer",
    "Projection",
    "SafeLoRA",
    "SafeMERGE",
    "SafetyVector",
    "project_model",
    "projection_table",
    "record",
]
