"""LayerGroup: layers of one shape with the forms they are penalised by, stacked for batched products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.errors import UnpenalisedError
from asft_lightning.functional import QuadraticForm, Total, applied_and_gram, update_penalty, whole
from asft_lightning.penalty.relative_parts import RelativeParts
from asft_lightning.runtime.precision import keep_float32
from asft_lightning.runtime.queued import on_device
from asft_lightning.runtime.sharding import SumOverRanks, mesh_of, own_rows, rows_of_columns, stacked_shards
from asft_lightning.weights.targets import LoRAFactors


@dataclass(frozen=True)
class BoundTerm:
    """One anchor of a sum, on one layer."""

    out: QuadraticForm | None
    inp: QuadraticForm | None
    weight: float

    @classmethod
    def of(cls, term: AnchorTerm, factors: LoRAFactors, scale_update: bool) -> Self:
        """The term's anchor of the layer of these factors."""
        anchor = term.modules[factors.target.name]
        return cls(anchor.out, anchor.inp, term.weight * anchor.factor(factors.scaling, scale_update))


@dataclass(frozen=True)
class BoundLayer:
    """One pair of factors with the terms it is penalised by."""

    factors: LoRAFactors
    terms: Sequence[BoundTerm]

    @property
    def kind(self) -> tuple[object, ...]:
        """What layers share that go through one batched product; widths within a factor of two are padded to one."""
        forms = [form for term in self.terms for form in (term.out, term.inp)]
        kinds = [None if form is None else (form.beta, _width_class(form)) for form in forms]
        return (*self.factors.a.shape, *self.factors.b.shape, *kinds)


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
            return torch.stack([term(a, b) for term in self.terms]).sum()

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


class Forms(nn.Module):
    """The forms of one term on the layers of a group, as buffers."""

    weights: Tensor

    def __init__(self, terms: Sequence[BoundTerm], on_host: bool, mesh: DeviceMesh | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._on_host = on_host
        self.total: Total = whole if mesh is None else SumOverRanks(mesh)
        self.register_buffer("weights", torch.tensor([term.weight for term in terms], dtype=dtype), persistent=False)
        self._betas = {side: _register(self, side, [getattr(term, side) for term in terms], mesh) for side in ("out", "inp")}

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The penalty of all layers, a scalar."""
        return (self.weights * update_penalty(a, b, self.form("out"), self.form("inp"), self.total)).sum()

    def form(self, side: str) -> QuadraticForm | None:
        """The form on a side, ``out`` or ``inp``, of all layers; None is the identity."""
        beta = self._betas[side]
        if beta is None:
            return None
        directions = getattr(self, f"{side}_directions").to(self.weights.device, non_blocking=True)
        return QuadraticForm(beta, directions, getattr(self, f"{side}_weights"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Anchors follow moves between devices, unless they stay on the host, and never casts to less than float32."""
        exact = keep_float32(fn)

        def moved(tensor: Tensor) -> Tensor:
            stays = self._on_host and tensor.ndim == 3  # the directions; weights are few, and say where the factors are
            return _on_host(tensor.to(exact(tensor.new_empty(0)).dtype)) if stays else exact(tensor)

        module: Self = super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return module


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.cpu().pin_memory() if torch.cuda.is_available() else tensor.cpu()


def _register(module: Forms, side: str, forms: Sequence[QuadraticForm | None], mesh: DeviceMesh | None) -> float | None:
    """Stack the forms of one side as buffers (L, d, k) and (L, k), padded with zero directions, which change nothing.

    Of directions to sharded factors a rank keeps the rows that are its own.
    """
    present = [form for form in forms if form is not None]
    if not present:
        return None
    width = max(form.directions.shape[-1] for form in present)

    def padded(tensor: Tensor) -> Tensor:
        return nn.functional.pad(tensor, (0, width - tensor.shape[-1])).to(module.weights.dtype)

    directions = [f.directions if mesh is None else own_rows(f.directions, mesh) for f in present]
    module.register_buffer(f"{side}_directions", torch.stack([padded(d) for d in directions]), persistent=False)
    module.register_buffer(f"{side}_weights", torch.stack([padded(f.weights) for f in present]), persistent=False)
    return present[0].beta


def _width_class(form: QuadraticForm) -> int:
    return max(16, form.directions.shape[-1] - 1).bit_length()
