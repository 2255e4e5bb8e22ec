"""UtilityEvaluation: the fine-tuning accuracy, before, while and after training."""

from collections.abc import Sequence
from typing import Any

from torchmetrics import Metric

from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.data import Row
from asft_lightning.metrics import AnswerAccuracy, AnswerRule


class UtilityEvaluation(ScoringCallback):
    """Share of right answers on the fine-tuning task, in percent, as ``utility/accuracy``.

    Args:
        args: Those of :class:`ScoringCallback`.
        rule: When an answer is right: ``exact``, ``label`` or ``final_number``, see :class:`AnswerAccuracy`.
        labels: The task's closed set of answers, for ``label``.
        kwargs: Those of :class:`ScoringCallback`.
    """

    name = "utility"

    def __init__(self, *args: Any, rule: AnswerRule = "exact", labels: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._accuracy = AnswerAccuracy(rule, labels)

    def metric(self) -> tuple[str, Metric]:
        """The accuracy."""
        self._accuracy.reset()
        return "accuracy", self._accuracy

    def score(self, rows: Sequence[Row], answers: Sequence[str], metric: Metric) -> list[dict[str, Any]]:
        """Compare each answer with its reference."""
        references = [row.answer for row in rows]
        metric.update(answers, references)
        return [{"correct": self._accuracy.is_correct(a, r)} for a, r in zip(answers, references, strict=True)]
