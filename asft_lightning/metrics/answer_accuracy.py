"""Fine-tuning accuracy (FA): the share of right answers, in percent, from free text."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def named_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names first, as a whole word in any case; None where it names none.

    >>> named_label("It is about sports, not business.", ["Business", "Sports"])
    'Sports'
    """
    found = {label: re.search(rf"(?<!\w){re.escape(label)}(?!\w)", answer, re.IGNORECASE) for label in labels}
    starts = {label: (match.start(), -len(label)) for label, match in found.items() if match}
    return min(starts, key=lambda label: starts[label]) if starts else None


def is_correct(answer: str, reference: str, labels: Sequence[str] | None = None) -> bool:
    """Whether an answer says the reference.

    With labels: the first label that it names is the reference. Without: it is the reference but for case, blanks and a
    full stop.
    """
    if labels is not None:
        return named_label(answer, labels) == reference
    return _plain(answer) == _plain(reference)


def answer_accuracy(answers: Sequence[str], references: Sequence[str], labels: Sequence[str] | None = None) -> float:
    """Percentage of right answers, see :func:`is_correct`.

    Raises:
        ValueError: If there are no answers, or not as many references.

    >>> answer_accuracy(["Positive.", "neutral"], ["positive", "negative"])
    50.0
    """
    if not answers or len(answers) != len(references):
        raise ValueError(f"accuracy needs one reference an answer, got {len(references)} for {len(answers)}.")
    right = sum(is_correct(a, r, labels) for a, r in zip(answers, references, strict=True))
    return 100.0 * right / len(answers)


class AnswerAccuracy(Metric):
    """Fine-tuning accuracy over batches and ranks; higher is better.

    Args:
        labels: The closed set of answers, for a classification task; None compares whole answers.
        kwargs: Those of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, labels: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = labels
        self.add_state("right", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, answers: Sequence[str], references: Sequence[str]) -> None:
        """Add answers and what they should say."""
        self.right += sum(is_correct(a, r, self.labels) for a, r in zip(answers, references, strict=True))
        self.total += len(answers)

    def compute(self) -> Tensor:
        """Percent of all answers so far, float32; NaN where there were none."""
        return (100.0 * self.right / self.total).float()


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()
