"""Answers, and judges and raters of answers."""

from asft_lightning.evaluation.attacks import Attack
from asft_lightning.evaluation.generation import generate_answers, generate_ids, undisturbed
from asft_lightning.evaluation.judges import (
    BeaverDamJudge,
    ClassifierJudge,
    EndpointJudge,
    GuardJudge,
    Judge,
    RefusalJudge,
    Verdict,
    parse_guard,
)
from asft_lightning.evaluation.raters import EndpointRater, Rater, Rating

__all__ = [
    "Attack",
    "BeaverDamJudge",
    "ClassifierJudge",
    "EndpointJudge",
    "EndpointRater",
    "GuardJudge",
    "Judge",
    "Rater",
    "Rating",
    "RefusalJudge",
    "Verdict",
    "generate_answers",
    "generate_ids",
    "parse_guard",
    "undisturbed",
]
