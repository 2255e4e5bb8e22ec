"""LayerGroup: layers of one shape with the forms they are penalised by, stacked for batched products."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.errors import UnpenalisedError
from asft_lightning.functional import applied_and_gram, update_penalty
from asft_lightning.penalty.forms import BoundTerm, Forms, kind_of
from asft_lightning.penalty.relative_parts import RelativeParts
from asft_lightning.runtime.queued import on_device
from asft_lightning.runtime.sharding import mesh_of, rows_of_columns, stacked_shards
from asft_lightning.weights.targets import LoRAFactors


@dataclass(frozen=True)
class BoundLayer:
    """One pair of factors with the terms it is penalised by."""

    factors: LoRAFactors
    terms: Sequence[BoundTerm]

    @classmethod
    def of(cls, factors: LoRAFactors, terms: Sequence[AnchorTerm], scale_update: bool) -> Self:
        """The factors with the anchors of their layer."""
        anchors = [(term.weight, term.modules[factors.target.name]) for term in terms]
        scaling = factors.scaling
        return cls(factors, [BoundTerm(a.out, a.inp, weight * a.factor(scaling, scale_update)) for weight, a in anchors])

    @property
    def kind(self) -> tuple[object, ...]:
        """What layers share that go through one batched product."""
        return (*self.factors.a.shape, *self.factors.b.shape, *kind_of(self.terms))


class LayerGroup(nn.Module):
    """Layers of one kind, stacked once for all terms. They are outside the module tree: the penalty owns no model."""

    def __init__(self, members: Sequence[BoundLayer], on_host: bool) -> None:
        super().__init__()
        self._factors = [member.factors for member in members]
        self._mesh = mesh_of(self._factors[0].b)
        terms = zip(*(m.terms for m in members), strict=True)
        dtype = torch.promote_types(self._factors[0].b.dtype, torch.float32)  # whatever the default dtype
        self.terms = nn.ModuleList(Forms(term, on_host, self._mesh, dtype) for term in terms)

    def forward(self) -> Tensor:
        """The penalty of all layers and terms, a scalar."""
        a, b = self.factors()
        with torch.autocast(a.device.type, enabled=False):
            return torch.stack([_penalty(cast(Forms, term), a, b) for term in self.terms]).sum()

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (L, r, d_in) and B (L, d_out, r); of sharded ones this rank's columns and rows."""
        return self._stacked("a", 2), self._stacked("b", 1)

    def scalings(self) -> Tensor:
        """α/r of each layer (L,)."""
        weights = cast(Forms, self.terms[0]).weights
        return on_device([factor.scaling for factor in self._factors], weights.device, weights.dtype)

    def relative_parts(self) -> RelativeParts:
        """What the layers' relative change is made of; of a group whose one term is relative."""
        forms = cast(Forms, self.terms[0])
        form = forms.form("inp")
        assert form is not None  # what makes it relative
        a, b = self.factors()
        along = forms.total(a @ form.directions)
        _, gram = applied_and_gram(b, forms.form("out"), forms.total)
        outside = a - along @ form.directions.mT
        outside_energy = (gram * forms.total(outside @ outside.mT)).sum((-2, -1))
        inside_energy = (along * (gram @ along)).sum(-2)
        beta = form.weights.new_full((len(a), 1), form.beta)
        squares = self.scalings().square().clamp_min(torch.finfo(a.dtype).tiny)[:, None]  # of ΔW against the bare B·A
        return RelativeParts(
            eigenvalues=forms.weights[:, None] / squares * torch.cat([form.weights, beta], dim=1),
            energies=squares * torch.cat([inside_energy, outside_energy[:, None]], dim=1).clamp_min(0.0),
            a=a,
            along=along,
            directions=form.directions,
        )

    def set_a(self, a: Tensor) -> None:
        """Give the layers other A (L, r, d_in); of sharded ones each rank gives its columns."""
        if self._mesh is not None:
            a = rows_of_columns(a, self._mesh, self._factors[0].a.shape)
        for factor, new_a in zip(self._factors, a, strict=True):
            value = factor.a.detach()
            (value.to_local() if isinstance(value, DTensor) else value).copy_(new_a)

    def _stacked(self, side: str, width: int) -> Tensor:
        """The factors (L, r, d_in) or (L, d_out, r); of sharded ones this rank's piece along ``width``."""
        factors = [getattr(factor, side) for factor in self._factors]
        if mesh_of(factors[0]) != self._mesh:
            raise UnpenalisedError(
                f"{self._factors[0].target.name}: the penalty must be bound after the model is sharded, and its factors "
                "were sharded since. Call fully_shard first, then UpdatePenalty."
            )
        dtype = cast(Forms, self.terms[0]).weights.dtype
        if self._mesh is not None:
            return stacked_shards(factors, width, dtype)
        return torch.stack([factor.to(dtype) for factor in factors])


def _penalty(term: Forms, a: Tensor, b: Tensor) -> Tensor:
    """Of all layers, a scalar."""
    return (term.weights * update_penalty(a, b, term.form("out"), term.form("inp"), term.total)).sum()
