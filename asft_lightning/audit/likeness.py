"""Likeness: how like unsafe prompts a row's prompt looks to the aligned model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asft_lightning.audit.aligned_model import AlignedModel, Found, Places
from asft_lightning.audit.questions import asked_alone, questions_of
from asft_lightning.audit.score import RowScore, Score, highest
from asft_lightning.data.example import Example
from asft_lightning.functional import discriminant
from asft_lightning.weights.hashing import text_hash

_RIDGE = 0.1
"""Of the covariance within a kind, by its mean eigenvalue: figures hardly move from 0.03 to 1."""

Prompts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Likeness(Score):
    """What the layers hold at the last token of the prompt, along what tells unsafe prompts from harmless ones there.

    Of each layer's output Fisher's linear discriminant is found on the prompts given; the score is the mean over layers of
    how far a prompt lies from the harmless ones towards the unsafe ones, in spreads within a kind. It takes one forward
    pass, and may see what the model takes for unsafe but does not refuse.

    Args:
        unsafe: Prompts as token ids.
        harmless: Others, no fewer than two of either.
    """

    name: ClassVar = "likeness"

    unsafe: Prompts
    harmless: Prompts

    def __call__(self, aligned: AlignedModel, examples: Sequence[Example]) -> list[RowScore]:
        """The likeness of each row's prompts, of the likest where it has several."""
        asked = [question for question in questions_of(examples) if not aligned.is_refusal(question.answer)]
        asked += asked_alone(asked, examples, aligned.prompt_ids)
        prompts = [question.prompt for question in asked]

        def find(new: Places) -> Found:
            w, b = self._discriminants(aligned)
            for places, states in aligned.states([prompts[i] for i in new], "Audit: likeness"):
                values = ((states * w).sum(-1) + b).mean(-1)
                yield [new[i] for i in places], values[:, None].tolist()

        found = aligned.recalled(text_hash(repr(self), str(_RIDGE)), prompts, find)
        scored = [(question.place, RowScore(value, question.turn)) for question, (value,) in zip(asked, found, strict=True)]
        return highest(len(examples), scored)

    def fresh(self, known: Sequence[Example]) -> list[Example]:
        """Those that it was not made of."""
        made_of = set(self.harmless)
        return [example for example in known if tuple(questions_of([example])[0].prompt) not in made_of]

    def _discriminants(self, aligned: AlignedModel) -> tuple[Tensor, Tensor]:
        """Of each layer the direction (layers, width) and the offset (layers,)."""
        of_unsafe, of_harmless = (self._states(aligned, prompts) for prompts in (self.unsafe, self.harmless))
        found = [discriminant(*both, _RIDGE) for both in zip(of_unsafe.unbind(1), of_harmless.unbind(1), strict=True)]
        return torch.stack([w for w, _ in found]), torch.stack([b for _, b in found])

    def _states(self, aligned: AlignedModel, prompts: Prompts) -> Tensor:
        found: dict[int, Tensor] = {}
        for places, states in aligned.states([list(prompt) for prompt in prompts], "Audit: references"):
            found |= dict(zip(places, states, strict=True))
        return torch.stack([found[i] for i in range(len(prompts))])
