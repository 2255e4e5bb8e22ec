"""Surprise: how unlikely the aligned model finds a row's answer, beside its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.score import RowScore, Score, highest
from asft_lightning.data.example import Example


@dataclass(frozen=True)
class Surprise(Score):
    """Mean log-likelihood a token of the model's own short answer less that of the row's, in nats.

    High for whatever the model would not say, harmful or new: what a task teaches is surprising as well. It flags only
    beyond harmless rows.

    Args:
        max_new_tokens: Of its own answer.
    """

    name: ClassVar = "surprise"

    max_new_tokens: int = 24

    def __call__(self, aligned: AlignedModel, examples: Sequence[Example]) -> list[RowScore]:
        """The surprise of each row, of the most surprising where it has several answers."""
        asked = [question for question in questions_of(examples) if not aligned.is_refusal(question.answer)]
        prompts = [question.prompt for question in asked]
        own = aligned.answers(prompts, self.max_new_tokens, "Audit: short answers")
        of_own = aligned.log_likelihoods(prompts, own, "Audit: likelihood of its answers")
        of_rows = aligned.log_likelihoods(prompts, [question.answer for question in asked], "Audit: likelihood of rows")
        scored = [
            (question.place, RowScore(_mean(likely) - _mean(given), question.turn, aligned.text(said)))
            for question, said, likely, given in zip(asked, own, of_own, of_rows, strict=True)
        ]
        return highest(len(examples), scored)


def _mean(likelihoods: Sequence[float]) -> float:
    """Of no token 0: the model ends at once, and is sure of it as far as is known."""
    return sum(likelihoods) / len(likelihoods) if likelihoods else 0.0
