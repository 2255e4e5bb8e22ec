"""HeldUpdate: what holds the update of a model, each anchor as a penalty or as a budget."""

from dataclasses import replace
from typing import NamedTuple, Self

from torch import nn

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.penalty.drift_budget import DriftBudget
from asft_lightning.penalty.update_penalty import UpdatePenalty


class HeldUpdate(NamedTuple):
    """A model's LoRA layers, bound to anchors.

    Attributes:
        penalty: To be added to the loss, λ times; None where no anchor is penalised.
        budget: To be held after each optimizer step; None where nothing is limited.
    """

    penalty: UpdatePenalty | None
    budget: DriftBudget | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        anchors: AnchorSet,
        drift_budget: float | None = None,
        *,
        scale_update: bool = False,
        resumed: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
    ) -> Self:
        """Bind them: with a limit of the drift the relative anchor is its budget, and the others are penalised.

        Args:
            model: As for :class:`UpdatePenalty`.
            anchors: As there.
            drift_budget: The limit; None for a penalty alone.
            scale_update: As there.
            resumed: As there.
            allow_unpenalised: As there.
            anchors_on_host: As there.

        Raises:
            ConfigurationError: If a budget finds not one relative anchor.
            UnpenalisedError: If something would be trained that no anchor sees, or an anchor finds no layer.
        """
        binding = {"resumed": resumed, "allow_unpenalised": allow_unpenalised, "anchors_on_host": anchors_on_host}
        if drift_budget is None:
            return cls(UpdatePenalty(model, anchors, scale_update=scale_update, **binding), None)
        budget = DriftBudget(model, anchors, drift_budget, **binding)
        others = replace(anchors, terms=tuple(term for term in anchors.terms if not term.relative))
        penalty = UpdatePenalty(model, others, scale_update=scale_update, **binding) if others.terms else None
        return cls(penalty, budget)
