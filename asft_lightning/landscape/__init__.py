"""The safety landscape: a model's weights moved along directions, and scored at each point."""

from asft_lightning.landscape.directions import Aligned, Direction, Random, Tuned
from asft_lightning.landscape.report import Curve, Plane, Report

__all__ = ["Aligned", "Curve", "Direction", "Plane", "Random", "Report", "Tuned"]
