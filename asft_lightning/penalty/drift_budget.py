"""DriftBudget: a limit on how much the update may change what unsafe prompts make of the model, instead of a weight."""

from typing import cast

import torch
from torch import Tensor, nn

from asft_lightning.anchors import AnchorSet, AnchorTerm
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import budget_multiplier, without_share
from asft_lightning.penalty.layer_groups import Forms, LayerGroup
from asft_lightning.penalty.update_penalty import UpdatePenalty


class DriftBudget(nn.Module):
    """Holds the drift, the root of an ``Activation`` anchor's penalty, to a limit: :meth:`hold` it after each step.

    Where a step leads beyond it, A is replaced by that of the nearest update that does not (B stays): with M_l the anchor's
    form on layer l and ΔW_l = (α/r)·B·A, ΔW_l → ΔW_l (I + ν M_l)⁻¹, the minimiser of Σ‖ΔW' − ΔW‖²_F within the budget. The
    multiplier ν, one for all layers, is found anew each time (:func:`budget_multiplier`). So there is no weight to choose,
    nothing to tune, and no state; what costs no drift is left as the optimizer made it.

    Args:
        model: A model with PEFT LoRA layers.
        anchors: Those of the model, with exactly one relative term.
        limit: Of the drift, the root of the anchor's penalty: a number without a unit; recommended is 0.3.
        kwargs: Those of :class:`UpdatePenalty`.

    Raises:
        ConfigurationError: If the limit is not positive, or the anchors have not one relative term.
        UnpenalisedError: If something would be trained that no anchor sees.
    """

    def __init__(self, model: nn.Module, anchors: AnchorSet, limit: float, **kwargs: bool) -> None:
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
        self.penalty = UpdatePenalty(model, AnchorSet(anchors.shapes, (term,), anchors.sources), **kwargs)

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
        parts = [_Parts(cast(LayerGroup, group)) for group in self.penalty.groups]
        eigenvalues = torch.cat([part.eigenvalues.flatten().cpu() for part in parts])
        energies = torch.cat([part.energies.flatten().cpu() for part in parts])
        nu = budget_multiplier(eigenvalues, energies, self.limit**2)
        if nu:
            for part in parts:
                part.shrink(nu)
        return nu


def require_budget(limit: float) -> None:
    """Refuse a limit that is none, before anything is built.

    Raises:
        ConfigurationError: If it is not positive.
    """
    if not limit > 0:
        raise ConfigurationError(f"drift_budget must be above 0, got {limit}. The recommended one is 0.3.")


class _Parts:
    """The drift of a group of layers, taken apart: along each direction of each layer, and along none.

    Attributes:
        eigenvalues: (L, k + 1), what a unit of each part costs; the last is of all that lies along none.
        energies: (L, k + 1), ‖ΔW u‖² of each part.
    """

    def __init__(self, group: LayerGroup) -> None:
        self._group = group
        forms = cast(Forms, group.terms[0])
        form = forms.form("inp")
        assert form is not None and forms.form("out") is None  # what makes it relative
        self._form = form
        a, b = group.factors()
        u = self._form.directions
        self._a, self._along = a, forms.total(a @ u)
        gram = forms.total(b.mT @ b)
        rest = a - self._along @ u.mT
        outside = (gram * forms.total(rest @ rest.mT)).sum((-2, -1))
        inside = (self._along * (gram @ self._along)).sum(-2)
        beta = self._form.weights.new_full((len(a), 1), self._form.beta)
        squares = group.scalings().square().clamp_min(torch.finfo(a.dtype).tiny)[:, None]  # of ΔW against the bare B·A
        self.eigenvalues = forms.weights[:, None] / squares * torch.cat([self._form.weights, beta], dim=1)
        self.energies = squares * torch.cat([inside, outside[:, None]], dim=1).clamp_min(0.0)

    def shrink(self, nu: float) -> None:
        """ΔW → ΔW (I + νM)⁻¹."""
        away = nu * self.eigenvalues / (1 + nu * self.eigenvalues)
        self._group.set_a(without_share(self._a, self._along, self._form.directions, away[:, :-1], away[:, -1]))
