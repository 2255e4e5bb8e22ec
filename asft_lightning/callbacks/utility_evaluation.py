"""UtilityEvaluation: the fine-tuning accuracy, before, while and after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from lightning.pytorch import Trainer
from torchmetrics import Metric

from asft_lightning.callbacks.scoring import ScoringCallback
from asft_lightning.chat.rows import Row
from asft_lightning.errors import DataError
from asft_lightning.evaluation.finding import Finding
from asft_lightning.metrics import AnswerAccuracy, AnswerRule


@dataclass(eq=False, kw_only=True)
class UtilityEvaluation(ScoringCallback):
    """Share of right answers on the fine-tuning task, in percent, as ``utility/accuracy``.

    The other arguments are those of :class:`ScoringCallback`.

    Args:
        rule: When an answer is right: ``exact``, ``label`` or ``final_number``, see :class:`AnswerAccuracy`.
        labels: The task's closed set of answers, for ``label``.

    Raises:
        DataError: Before training, if a reference cannot be matched, e.g. is blank or none of the labels.
    """

    kind: ClassVar[str] = "utility"

    rule: AnswerRule = "exact"
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        """A mistake shows before anything is loaded."""
        super().__post_init__()
        AnswerAccuracy(self.rule, self.labels)

    def check(self, trainer: Trainer) -> None:
        """A reference that no answer can match would count as wrong for ever."""
        accuracy = AnswerAccuracy(self.rule, self.labels)
        wrong = [row for row in self.rows if not (told := self.reference(row)) or not accuracy.is_correct(told, told)]
        if wrong:
            raise DataError(
                f"a reference must be one that rule {self.rule!r} can find, and {len(wrong)} of {len(self.rows)} are not, "
                f"e.g. {wrong[0].answer!r:.60} to {wrong[0].prompt!r:.60}. Mend the prompts' answer, rule or labels."
            )

    def metrics(self) -> dict[str, Metric]:
        """The accuracy."""
        return {"accuracy": AnswerAccuracy(self.rule, self.labels)}

    def score(self, rows: Sequence[Row], answers: Sequence[str], metrics: dict[str, Metric]) -> list[Finding]:
        """Compare each answer with its reference."""
        accuracy = cast(AnswerAccuracy, metrics["accuracy"])
        references = [row.answer for row in rows]
        accuracy.update(answers, references)
        return [Finding({"correct": accuracy.is_correct(a, r)}) for a, r in zip(answers, references, strict=True)]
