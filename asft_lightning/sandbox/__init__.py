"""The embedded default: a tiny aligned/base chat pair and its data, shipped with the package, and how to make it anew."""

from asft_lightning.sandbox.build import build_sandbox
from asft_lightning.sandbox.parts import is_shipped, sandbox_path
from asft_lightning.sandbox.recipe import Recipe, Stage

__all__ = ["Recipe", "Stage", "build_sandbox", "is_shipped", "sandbox_path"]
