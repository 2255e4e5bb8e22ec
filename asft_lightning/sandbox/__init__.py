"""The embedded default: a tiny aligned/base chat pair and its data, built on first use, without any download."""

from asft_lightning.sandbox.cache import build_sandbox, sandbox_path
from asft_lightning.sandbox.recipe import Recipe, Stage

__all__ = ["Recipe", "Stage", "build_sandbox", "sandbox_path"]
