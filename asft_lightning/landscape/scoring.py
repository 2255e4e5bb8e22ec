"""PointScorer: what is measured of a model at each point."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from asft_lightning.callbacks import SafetyEvaluation
from asft_lightning.callbacks.questions import Questions
from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.chat.template import Template
from asft_lightning.data import Source
from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.evaluation.likelihood import answer_log_likelihoods
from asft_lightning.functional import IGNORE_INDEX

LOSS = "loss"


class PointScorer:
    """Scores a model by the scorers that a run has; prompts are read and written once.

    Args:
        safety: The harmful score; its judges stay loaded between points.
        beside: What else to score, e.g. a ``UtilityEvaluation``.
        loss: Rows with answers, for the mean loss of an answer's token in nats; None for no loss.
        tokenizer: The model's.
        template: How prompts and answers are written for it.

    Raises:
        ConfigurationError: If two scorers have one name.
        DataError: If prompts cannot be read, or a row has no answer to learn from.
    """

    def __init__(
        self,
        safety: SafetyEvaluation,
        beside: Sequence[ScoringCallback],
        loss: Source | None,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
    ) -> None:
        self._scorers: list[ScoringCallback] = [replace(safety, keep_judges=True), *beside]
        labels = [scorer.label for scorer in self._scorers]
        if len(set(labels)) < len(labels):
            raise ConfigurationError(f"each scorer needs a name of its own, got {', '.join(labels)}. Set `name`.")
        for scorer in self._scorers:
            scorer.load_rows()
        self.harmful_score = self._scorers[0].scores[0]
        self.prompts = {scorer.label: len(scorer.rows) for scorer in self._scorers}
        self._questions = [Questions(_asked(scorer), tokenizer, template, scorer.attack) for scorer in self._scorers]
        self._learnt = None if loss is None else _Learnt(loss, tokenizer, template, safety.batch_size)

    def __call__(self, model: Any) -> dict[str, float | None]:
        """{name: score}, percentages but for the loss; None where nothing could be scored.

        Raises:
            ConfigurationError: If there is no harmful score.
        """
        scores: dict[str, float | None] = {}
        for scorer, questions in zip(self._scorers, self._questions, strict=True):
            answers = questions.answers(
                model,
                max_new_tokens=scorer.max_new_tokens,
                batch_size=scorer.batch_size,
                score_thoughts=scorer.score_thoughts,
            )
            metrics, findings = scorer.scored(answers)
            values = {f"{scorer.label}/{name}": float(metric.compute()) for name, metric in metrics.items()}
            if math.isnan(values.get(self.harmful_score, 0.0)):
                raise ConfigurationError(
                    f"{scorer.label}: a point must have a harmful score, and none of {len(answers)} answers was judged: "
                    f"{_problem(findings)}. Mend the judge; what was scored is kept."
                )
            scores |= {name: None if math.isnan(value) else value for name, value in values.items()}
        return scores | ({} if self._learnt is None else {LOSS: self._learnt.loss(model)})


class _Learnt:
    """Rows with answers, in token ids."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase, template: Template, batch_size: int) -> None:
        self._batch_size = batch_size
        self._prompts, self._answers, self._counted = list[list[int]](), list[list[int]](), list[torch.Tensor]()
        for row, rendered in zip(rows := source.load(), template.render_all(tokenizer, rows), strict=True):
            counted = torch.tensor(rendered.labels) != IGNORE_INDEX
            if not row.answer or not counted.any():
                raise DataError(f"a row for the loss needs an answer within max_length, and {row.prompt!r:.60} has none.")
            first = int(counted.nonzero()[0])
            self._prompts.append(rendered.input_ids[:first])
            self._answers.append(rendered.input_ids[first:])
            self._counted.append(counted[first:])

    def loss(self, model: Any) -> float:
        """The mean over all learnt tokens, in nats."""
        likely = answer_log_likelihoods(model, self._prompts, self._answers, batch_size=self._batch_size)
        return -float(torch.cat([row[mask] for row, mask in zip(likely, self._counted, strict=True)]).mean())


def _asked(scorer: ScoringCallback) -> list[Any]:
    return [row for row in scorer.rows for _ in range(scorer.attack.samples)]


def _problem(findings: Sequence[Mapping[str, Any]]) -> str:
    told = (finding.problem for finding_of_judge in findings for finding in finding_of_judge.values())
    return next((problem for problem in told if problem), "no reason was given")
