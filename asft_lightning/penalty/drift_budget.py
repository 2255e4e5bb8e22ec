"""DriftBudget: a limit on how much the update may change what unsafe prompts make of the model, instead of a weight."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from asft_lightning.anchors import AnchorSet, AnchorTerm
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import budget_multiplier
from asft_lightning.penalty.layer_groups import LayerGroup
from asft_lightning.penalty.update_penalty import UpdatePenalty

_ROUNDING = 1e-3
"""Of the drift's square in float32; where it is this close to the limit, float64 decides."""


class DriftBudget(nn.Module):
    """Holds the drift, the root of an ``Activation`` anchor's penalty, to a limit: :meth:`hold` it after each step.

    Where a step leads beyond it, A is replaced by that of the nearest update that does not (B stays): with M_l the anchor's
    form on the inputs of layer l and ΔW_l = (α/r)·B·A, ΔW_l → ΔW_l (I + ν M_l)⁻¹, the minimiser of Σ‖ΔW' − ΔW‖²_F within the
    budget. Of an anchor of both sides ‖·‖ is the norm of its output side: the nearest in the plain one has no low rank. The
    multiplier ν, one for all layers, is found anew each time (:func:`budget_multiplier`). So there is no weight to choose,
    nothing to tune, and no state; what costs no drift is left as the optimizer made it.

    Args:
        model: A model with PEFT LoRA layers.
        anchors: Those of the model, with exactly one relative term.
        limit: Of the drift, the root of the anchor's penalty: a number without a unit; recommended is 0.3.
        resumed: As for :class:`UpdatePenalty`.
        allow_unpenalised: As there.
        anchors_on_host: As there.

    Raises:
        ConfigurationError: If the limit is not positive, or the anchors have not one relative term.
        UnpenalisedError: If something would be trained that no anchor sees.
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: AnchorSet,
        limit: float,
        *,
        resumed: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
    ) -> None:
        super().__init__()
        relative = [term for term in anchors.terms if term.relative]
        require_budget(limit)
        if len(relative) != 1:
            raise ConfigurationError(
                "drift_budget limits a relative change, which one Activation anchor measures, and among `anchors` there are "
                f"{len(relative)} of them. Have exactly one."
            )
        self.limit = limit
        term = AnchorTerm(relative[0].settings, 1.0, relative[0].modules, relative[0].prompts)
        self.penalty = UpdatePenalty(
            model,
            AnchorSet(anchors.shapes, (term,), anchors.sources),
            resumed=resumed,
            allow_unpenalised=allow_unpenalised,
            anchors_on_host=anchors_on_host,
        )

    def drift(self) -> Tensor:
        """The drift as it is, a scalar."""
        drift: Tensor = self.penalty().sqrt()
        return drift

    @torch.no_grad()
    def hold(self) -> float:
        """Take the update back into the budget where it has left it; of sharded factors every rank must call this.

        Returns:
            ν, 0 where the update was within.
        """
        groups = [cast(LayerGroup, group) for group in self.penalty.groups]
        parts = [group.relative_parts() for group in groups]
        cost = torch.stack([(part.eigenvalues * part.energies).sum() for part in parts]).sum()
        if not bool(cost > (1 - _ROUNDING) * self.limit**2):  # the one thing that the host asks of the device
            return 0.0
        eigenvalues = torch.cat([part.eigenvalues.flatten().cpu() for part in parts])
        energies = torch.cat([part.energies.flatten().cpu() for part in parts])
        nu = budget_multiplier(eigenvalues, energies, self.limit**2)
        if nu:
            for group, part in zip(groups, parts, strict=True):
                group.set_a(part.shrunk(nu))
        return nu


def require_budget(limit: float) -> None:
    """Refuse a limit that is none, before anything is built.

    Raises:
        ConfigurationError: If it is not positive, or no float32 figure could tell a drift from it.
    """
    if not 1e-12 <= limit <= 1e12:
        raise ConfigurationError(f"drift_budget must be above 0, from 1e-12 to 1e12, got {limit}. Recommended is 0.3.")


def require_one_to_limit(anchors: Sequence[object] | None) -> None:
    """Refuse a limit beside an empty list of anchors, before anything is built: it would be dropped in silence.

    Raises:
        ConfigurationError: If the list is empty; None stands for anchors that are not known yet.
    """
    if anchors is not None and not anchors:
        raise ConfigurationError(
            "drift_budget limits what one Activation anchor measures, and anchors is an empty list. Name one, or leave "
            "drift_budget out."
        )
