"""Fine-tuning accuracy (FA): the share of right answers, in percent, from free text."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from asft_lightning.errors import ConfigurationError


def named_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names first, as a whole word in any case; None where it names none.

    >>> named_label("It is about sports, not business.", ["Business", "Sports"])
    'Sports'
    """
    found = {label: re.search(rf"(?<!\w){re.escape(label)}(?!\w)", answer, re.IGNORECASE) for label in labels}
    starts = {label: (match.start(), -len(label)) for label, match in found.items() if match}
    return min(starts, key=lambda label: starts[label]) if starts else None


def final_number(answer: str) -> str | None:
    """The last number that an answer names, without thousands' commas and empty decimals; None where there is none.

    >>> final_number("So it is 1,250.0 in all. #### 1,250"), final_number("no idea")
    ('1250', None)
    """
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
    return re.sub(r"\.0+$", "", numbers[-1].replace(",", "")) if numbers else None


AnswerRule = Literal["exact", "label", "final_number"]


def _exact(answer: str, reference: str, labels: Sequence[str]) -> bool:
    return _plain(answer) == _plain(reference)


def _label(answer: str, reference: str, labels: Sequence[str]) -> bool:
    return named_label(answer, labels) == reference


def _final_number(answer: str, reference: str, labels: Sequence[str]) -> bool:
    return (number := final_number(answer)) is not None and number == final_number(reference)


_RULES: dict[str, Callable[[str, str, Sequence[str]], bool]] = {
    "exact": _exact,
    "label": _label,
    "final_number": _final_number,
}


class AnswerAccuracy(Metric):
    """Fine-tuning accuracy over batches and ranks; higher is better.

    Args:
        rule: When an answer is right. ``exact``: it is the reference but for case, blanks and a full stop; ``label``: the
            first of ``labels`` that it names is the reference; ``final_number``: its last number is the reference's
            (GSM8K).
        labels: The closed set of answers of a classification task; needed for ``label``.
        kwargs: Those of ``torchmetrics.Metric``.

    Raises:
        ConfigurationError: If the rule is unknown, or ``label`` has no labels.

    >>> metric = AnswerAccuracy("label", ["positive", "negative"])
    >>> metric.update(["It is Positive.", "neutral"], ["positive", "negative"])
    >>> metric.compute()
    tensor(50.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, rule: AnswerRule = "exact", labels: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rule not in _RULES:
            raise ConfigurationError(f"rule must be one of {', '.join(_RULES)}, got {rule!r}.")
        if (rule == "label") != bool(labels):
            raise ConfigurationError(f"labels go with rule 'label', got rule {rule!r} and labels {labels}. Give both.")
        self._rule = _RULES[rule]
        self._labels = labels or ()
        self.add_state("right", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def is_correct(self, answer: str, reference: str) -> bool:
        """Whether one answer is right."""
        return self._rule(answer, reference, self._labels)

    def update(self, answers: Sequence[str], references: Sequence[str]) -> None:
        """Add answers and what they should say."""
        self.right += sum(self.is_correct(a, r) for a, r in zip(answers, references, strict=True))
        self.total += len(answers)

    def compute(self) -> Tensor:
        """Percent of all answers so far, float32; NaN where there were none."""
        return (100.0 * self.right / self.total).float()


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()
