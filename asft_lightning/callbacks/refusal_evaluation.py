"""RefusalEvaluation: over-refusal, the price that safety must not have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torchmetrics import Metric

from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.callbacks.unseen_prompts import require_unseen
from asft_lightning.chat.rows import Row
from asft_lightning.evaluation import RefusalJudge
from asft_lightning.evaluation.finding import Finding
from asft_lightning.metrics import RefusalRate
from asft_lightning.penalty.reference_penalty import held_prompts


@dataclass(eq=False, kw_only=True)
class RefusalEvaluation(ScoringCallback):
    """Share of refusals of harmless prompts, in percent, as ``over_refusal/refusal_rate``; lower is better.

    The other arguments are those of :class:`ScoringCallback`; ``prompts`` are harmless ones.

    Args:
        judge: Tells refusals from answers; null for the usual phrases.

    Raises:
        DataError: When a fit begins, if the answers to some of the prompts are held.
    """

    kind: ClassVar[str] = "over_refusal"

    judge: RefusalJudge | None = None

    def require_new(self, protecting: nn.Module) -> None:
        """Refuse prompts whose answers are held."""
        remedy = "Give `answers.harmless` other `rows` of the source."
        require_unseen(self.label, self.rows, held_prompts(protecting), "whose answers are held", remedy)

    def metrics(self) -> dict[str, Metric]:
        """The refusal rate."""
        return {"refusal_rate": RefusalRate()}

    def score(self, rows: Sequence[Row], answers: Sequence[str], metrics: dict[str, Metric]) -> list[Finding]:
        """Tell refusals from answers."""
        judge = RefusalJudge() if self.judge is None else self.judge
        are_refusals = [judge.is_refusal(answer) for answer in answers]
        metrics["refusal_rate"].update(torch.tensor(are_refusals))
        return [Finding({"refused": is_refusal}) for is_refusal in are_refusals]
