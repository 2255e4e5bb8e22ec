"""Questions: prompts written once for a tokenizer and a template, to be asked of a model as often as it changes; Asking."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.rows import Row
from asft_lightning.chat.template import Template
from asft_lightning.chat.thoughts import split_thought
from asft_lightning.evaluation import Attack, generate_answers
from asft_lightning.evaluation.finding import ScoredAnswer


class Asking(NamedTuple):
    """What a trainer has to do with how a model is asked.

    Attributes:
        precision: Makes the context of its forward passes.
        rank: Of the process: the seed of sampling, and the first one shows its progress.
        before_batch: Called before each batch of answers.
    """

    precision: Callable[[], AbstractContextManager[Any]]
    rank: int = 0
    before_batch: Callable[[], object] | None = None


class Questions:
    """Prompts in token ids.

    Args:
        rows: The prompts, each as often as it is to be answered.
        tokenizer: The model's.
        template: How prompts are written for it.
        attack: How they are asked.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, template: Template, attack: Attack) -> None:
        self.rows = rows
        self._tokenizer, self._attack = tokenizer, attack
        asked = [(attack.wrapped(row.prompt), row.history) for row in rows]
        self._ids = [template.prompt_ids(tokenizer, *said, attack.opening) for said in asked]
        self._texts = [template.prompt_text(tokenizer, *said) for said in asked]
        self._ends = [template.end(tokenizer).token_id]

    def answers(
        self,
        model: Any,
        *,
        max_new_tokens: int,
        batch_size: int,
        score_thoughts: bool = False,
        seed: int = 0,
        progress: str | None = None,
        before_batch: Callable[[], object] | None = None,
    ) -> list[ScoredAnswer]:
        """What a model says, and what of it is to be scored; the arguments are those of :func:`generate_answers`."""
        answers = generate_answers(
            model,
            self._tokenizer,
            self._ids,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=self._attack.temperature,
            seed=seed,
            opening=self._attack.opening,
            ends=self._ends,
            progress=progress,
            before_batch=before_batch,
        )
        return [
            ScoredAnswer(row, answer, answer if score_thoughts else split_thought(answer, prompt).answer)
            for row, answer, prompt in zip(self.rows, answers, self._texts, strict=True)
        ]
