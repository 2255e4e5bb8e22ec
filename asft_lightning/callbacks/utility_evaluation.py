"""UtilityEvaluation: the fine-tuning accuracy, before, while and after training."""

from collections.abc import Sequence
from typing import Any

from torchmetrics import Metric

from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.data import Row
from asft_lightning.metrics import AnswerAccuracy, is_correct


class UtilityEvaluation(ScoringCallback):
    """Share of right answers on the fine-tuning task, in percent, as ``utility/accuracy``.

    Args:
        args: Those of :class:`ScoringCallback`.
        labels: The task's closed set of answers: right is an answer that names the right one first; null compares
            whole answers but for case and blanks.
        kwargs: Those of :class:`ScoringCallback`.
    """

    name = "utility"

    def __init__(self, *args: Any, labels: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.labels = labels

    def metric(self) -> tuple[str, Metric]:
        """The accuracy."""
        return "accuracy", AnswerAccuracy(self.labels)

    def score(self, rows: Sequence[Row], answers: Sequence[str], metric: Metric) -> list[dict[str, Any]]:
        """Compare each answer with its reference."""
        references = [row.answer for row in rows]
        metric.update(answers, references)
        return [{"correct": is_correct(a, r, self.labels)} for a, r in zip(answers, references, strict=True)]
