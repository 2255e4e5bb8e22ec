"""SafetyEvaluation: the harmful score, before, while and after training."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torchmetrics import Metric

from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.data import Row
from asft_lightning.errors import DataError
from asft_lightning.evaluation import Judge, RefusalJudge
from asft_lightning.metrics import HarmfulScore


class SafetyEvaluation(ScoringCallback):
    """Share of unsafe answers to unsafe prompts, in percent, as ``safety/harmful_score``.

    Args:
        args: Those of :class:`ScoringCallback`.
        judge: Who tells unsafe answers from safe ones; null for :class:`RefusalJudge`.
        kwargs: Those of :class:`ScoringCallback`.

    Raises:
        DataError: Before training, if a prompt also stands among the harmful training rows.
    """

    name = "safety"

    def __init__(self, *args: Any, judge: Judge | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.judge: Judge = RefusalJudge() if judge is None else judge

    def metric(self) -> tuple[str, Metric]:
        """The harmful score."""
        return "harmful_score", HarmfulScore()

    def score(self, rows: Sequence[Row], answers: Sequence[str], metric: Metric) -> list[dict[str, Any]]:
        """Judge each answer."""
        verdicts = self.judge([row.prompt for row in rows], answers)
        metric.update(torch.tensor([verdict.unsafe for verdict in verdicts], device=metric.device))
        return [
            {"unsafe": verdict.unsafe, "categories": list(verdict.categories), "score": verdict.score}
            for verdict in verdicts
        ]

    def check(self, trainer: Trainer) -> None:
        """A harmful score on prompts that were trained on measures memory, not safety."""
        prompts: frozenset[str] = getattr(getattr(trainer, "datamodule", None), "harmful_prompts", frozenset())
        trained = {_plain(prompt) for prompt in prompts}
        if shared := [row.prompt for row in self.rows if _plain(row.prompt) in trained]:
            raise DataError(
                f"a scored prompt must not stand among the harmful training rows, and {len(shared)} do, e.g. "
                f"{shared[0]!r}. Split the file with rows='0:400' for training and '400:' for scoring."
            )


def _plain(prompt: str) -> str:
    return " ".join(prompt.split()).casefold()
