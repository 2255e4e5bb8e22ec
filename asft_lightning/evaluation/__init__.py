"""Answers, and judges of answers."""

from asft_lightning.evaluation.generation import generate_answers, undisturbed
from asft_lightning.evaluation.judges import Judge, RefusalJudge, Verdict

__all__ = ["Judge", "RefusalJudge", "Verdict", "generate_answers", "undisturbed"]
