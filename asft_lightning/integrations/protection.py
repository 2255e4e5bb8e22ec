"""Protection: what holds a model that another library's trainer trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asft_lightning.anchors import AnchorSet, Answers, KeptAnswers
from asft_lightning.anchors.cache import cache_key
from asft_lightning.errors import ConfigurationError, TrainingError
from asft_lightning.penalty import AnswerBudget, AnswerPenalty
from asft_lightning.penalty.held_update import HeldUpdate
from asft_lightning.weights.hashing import text_hash
from asft_lightning.weights.targets import find_lora_factors


@dataclass(frozen=True)
class Binding:
    """How anchors are bound, and how much they count.

    Args:
        lambda_reg: λ of the penalty.
        drift_budget: Limit of the drift; None for none.
        scale_update: As for :class:`UpdatePenalty`.
        allow_unpenalised: As there.
        anchors_on_host: As there.
    """

    lambda_reg: float = 1.0
    drift_budget: float | None = None
    scale_update: bool = False
    allow_unpenalised: bool = False
    anchors_on_host: bool = False


class Protection:
    """λ·Σ_l ‖(I − C_l) B_l A_l‖²_F and the weighted distance of answers, of an optimizer step, and what follows the step.

    Args:
        model: The model, where it is trained.
        anchors: What its update is held by, or None.
        kept: The aligned model's answers, or None.
        binding: How anchors are bound.
        answers: How much answers count; None where there are none.
        resumed: Whether the adapter was trained before.

    Raises:
        UnpenalisedError: If the model has no LoRA, or something would be trained that no anchor sees.
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: AnchorSet | None,
        kept: KeptAnswers | None,
        binding: Binding,
        answers: Answers | None,
        resumed: bool,
    ) -> None:
        self.model, self._binding = model, binding
        self._anchors, self._kept, self._answers = anchors, kept, answers
        self._held = HeldUpdate(None, None)
        self._answer_penalty: AnswerPenalty | None = None
        self._answer_budget: AnswerBudget | None = None
        if kept is not None and answers is not None:
            self._answer_penalty = AnswerPenalty(model, kept, rows_per_step=answers.rows_per_step)
            self._answer_budget = None if answers.budget is None else AnswerBudget(answers.budget, answers.weight)
        self._distance: Tensor | None = None
        self._figures: dict[str, Tensor | float] = {}
        self.bind(resumed)

    def bind(self, resumed: bool) -> None:
        """Bind the anchors to what the model trains now, to its device, and refuse what they do not see.

        Args:
            resumed: Whether B·A may be other than 0.

        Raises:
            UnpenalisedError: If something would be trained that no anchor sees.
        """
        find_lora_factors(self.model)
        if self._anchors is not None:
            self._held = HeldUpdate.of(
                self.model,
                self._anchors,
                self._binding.drift_budget,
                scale_update=self._binding.scale_update,
                resumed=resumed,
                allow_unpenalised=self._binding.allow_unpenalised,
                anchors_on_host=self._binding.anchors_on_host,
            )
        self.parts.to(next(self.model.parameters()).device)

    @property
    def parts(self) -> nn.ModuleList:
        """All that the model is held by."""
        parts = (*self._held, self._answer_penalty, self._answer_budget)
        return nn.ModuleList(part for part in parts if part is not None)

    def loss(self, step: int) -> Tensor | None:
        """What is added to the task's loss of an optimizer step, a scalar; None where there is nothing with a gradient.

        Args:
            step: Optimizer steps taken.
        """
        parts, self._figures = list[Tensor](), {}
        penalty, budget = self._held
        if budget is not None:
            self._figures["drift"] = budget.drift().detach()
        if penalty is not None:
            size = penalty()
            parts.append(size * self._binding.lambda_reg)
            self._figures |= {"penalty": size.detach(), "lambda": self._binding.lambda_reg}
        if self._answer_penalty is not None and self._answers is not None:
            distance: Tensor = self._answer_penalty(self.model, step)
            weight = self._answers.weight if self._answer_budget is None else self._answer_budget.weight.clone()
            parts.append(distance * weight)
            self._distance = distance.detach()
            self._figures |= {self._answer_penalty.figure: self._distance, "answer_weight": weight}
        return torch.stack(parts).sum() if parts else None

    def stepped(self, mean: Callable[[Tensor], Tensor]) -> None:
        """After a step: the update back into its budget, and the weight of the next step's answers.

        Args:
            mean: Of a figure over the ranks.
        """
        if self._held.budget is not None:
            self._figures["budget_multiplier"] = self._held.budget.hold()
        if self._answer_budget is not None and self._distance is not None:
            self._answer_budget.observe(mean(self._distance))

    def figures(self, step: int) -> dict[str, float]:
        """What the last step was held by, to be logged.

        Raises:
            TrainingError: If one is no finite number.
        """
        figures = {name: float(figure) for name, figure in self._figures.items()}
        if spoilt := [name for name, figure in figures.items() if not torch.tensor(figure).isfinite()]:
            raise TrainingError(
                f"what holds the model must be a finite number, and at step {step} {spoilt[0]} is {figures[spoilt[0]]}. "
                "Lower the learning rate, or use bf16 instead of fp16; then go on from an earlier checkpoint."
            )
        return figures

    def state(self) -> dict[str, Any]:
        """What a checkpoint must know, as JSON has it."""
        budget = self._answer_budget
        return self._identity() | {
            "answer_budget": None if budget is None else {name: float(v) for name, v in budget.state_dict().items()}
        }

    def load(self, state: dict[str, Any], checkpoint: str) -> None:
        """Go on from what :meth:`state` gave.

        Args:
            state: That.
            checkpoint: Where it is from, for an error.

        Raises:
            ConfigurationError: If the run was held by something else.
        """
        others = [part for part, mine in self._identity().items() if state[part] != mine]
        weights = state["answer_budget"]
        if (weights is None) != (self._answer_budget is None):
            others.append("budget of answers")
        if others:
            raise ConfigurationError(
                f"a run goes on held as it began, and {checkpoint} was written under other {' and '.join(others)}, or none. "
                "Give the same again, or begin a new run from its adapter, with resumed=True."
            )
        if self._answer_budget is not None:
            self._answer_budget.load_state_dict({name: torch.tensor(float(value)) for name, value in weights.items()})

    def _identity(self) -> dict[str, str | None]:
        """What anchors and answers follow from: built again on another machine they may differ in the last bits."""
        anchors, kept = self._anchors, self._kept
        settings = [] if anchors is None else [term.settings for term in anchors.terms]
        return {
            "anchors": None if anchors is None else cache_key(settings, anchors.shapes, anchors.sources),
            "answers": None if kept is None else text_hash(*kept.prompts),
        }
