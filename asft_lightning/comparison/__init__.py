"""Methods side by side: many runs of one file, their results, and the report. Above the modules, beside the command line."""

from asft_lightning.comparison.loading import load_comparison
from asft_lightning.comparison.search import Search
from asft_lightning.comparison.spec import Comparison, FirstStep, Method, Tuning

__all__ = ["Comparison", "FirstStep", "Method", "Search", "Tuning", "load_comparison"]
