"""Answers, and judges and raters of answers."""

from asft_lightning.evaluation.attacks import Attack
from asft_lightning.evaluation.coherence import Coherence
from asft_lightning.evaluation.endpoint_client import Endpoint
from asft_lightning.evaluation.finding import Finding
from asft_lightning.evaluation.generation import end_ids, generate_answers, generate_ids
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
from asft_lightning.evaluation.strong_reject import StrongRejectRater

__all__ = [
    "Attack",
    "BeaverDamJudge",
    "ClassifierJudge",
    "Coherence",
    "Endpoint",
    "EndpointJudge",
    "EndpointRater",
    "Finding",
    "GuardJudge",
    "Judge",
    "Rater",
    "Rating",
    "RefusalJudge",
    "StrongRejectRater",
    "Verdict",
    "end_ids",
    "generate_answers",
    "generate_ids",
    "parse_guard",
]
