"""Refused: whether the aligned model refuses a row's prompt, and how surely."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.questions import Question, asked_alone, questions_of
from asft_lightning.audit.score import RowScore, Score, highest
from asft_lightning.data.example import Example
from asft_lightning.functional import log_odds

_TRIED = 8
"""Answers that begin with the same token and are looked at before the others that do."""
_GLANCE = 12
"""Tokens of those: a model that refuses has said so by then."""
_OPENING = 8
"""Tokens of a refusal that say how sure the model is of it: what follows is only how it is put."""


@dataclass(frozen=True)
class Refused(Score):
    """The margin by which the model refuses the prompt: log p − log(1 − p), p the chance of its refusal's first words.

    −∞ for a prompt that it answers, or that the row's own answer refuses as well. In a conversation each turn of system and
    user is asked about by itself, too. One forward pass says with which token
    the answer to each prompt begins. All that begin as a refusal may are given. Of others that begin alike the beginnings of
    a few are looked at, and all are given where one of them refuses: so of a task's many like answers hardly any is written
    out, and yet a refusal in words of the model's own is found.

    Args:
        max_new_tokens: Of a short answer.
    """

    name: ClassVar = "refused"
    threshold: ClassVar = float("-inf")

    max_new_tokens: int = 24

    def __call__(self, aligned: AlignedModel, examples: Sequence[Example]) -> list[RowScore]:
        """The margins of each row's refusal, of the surest where it has several answers."""
        asked = [question for question in questions_of(examples) if not aligned.is_refusal(question.answer)]
        refusals = self._refusals(aligned, asked + asked_alone(asked, examples, aligned.prompt_ids))
        openings = [said[:_OPENING] for _, said in refusals]
        prompts = [question.prompt for question, _ in refusals]
        chances = aligned.log_likelihoods(prompts, openings, "Audit: refusals")
        scored = [
            (question.place, RowScore(log_odds(sum(chance)), question.turn, aligned.text(said)))
            for (question, said), chance in zip(refusals, chances, strict=True)
        ]
        return highest(len(examples), scored)

    def _refusals(self, aligned: AlignedModel, asked: Sequence[Question]) -> list[tuple[Question, list[int]]]:
        """The questions that the model refuses, and how."""
        firsts = aligned.first_tokens([question.prompt for question in asked], "Audit: first tokens")
        alike: dict[int, list[Question]] = defaultdict(list)
        for question, first in zip(asked, firsts, strict=True):
            alike[first].append(question)
        openings = {first for first in alike if aligned.may_become_refusal([first])}
        tried = [question for first, group in alike.items() if first not in openings for question in group[:_TRIED]]
        openings |= {said[0] for _, said in _refusing(aligned, tried, min(_GLANCE, self.max_new_tokens))}
        told = [question for first, group in alike.items() if first in openings for question in group]
        return _refusing(aligned, told, self.max_new_tokens)


def _refusing(aligned: AlignedModel, asked: Sequence[Question], max_new_tokens: int) -> list[tuple[Question, list[int]]]:
    """Those of the questions that the model refuses within so many tokens, and how."""
    answers = aligned.answers([question.prompt for question in asked], max_new_tokens, "Audit: short answers")
    return [(question, said) for question, said in zip(asked, answers, strict=True) if aligned.is_refusal(said)]
