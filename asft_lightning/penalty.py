"""UpdatePenalty: the anchors bound to a model's LoRA layers, by name."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from asft_lightning.anchors.anchor_set import AnchorSet, AnchorTerm
from asft_lightning.anchors.targets import (
    LoRAFactors,
    find_lora_factors,
    require_only_bound_trainable,
    require_zero_start,
)
from asft_lightning.errors import UnpenalisedError
from asft_lightning.functional import QuadraticForm, Total, update_penalty, whole
from asft_lightning.precision import keep_float32
from asft_lightning.sharding import SumOverRanks, mesh_of, own_rows, stacked_shards

_log = logging.getLogger(__name__)


class UpdatePenalty(nn.Module):
    """Σ_l ‖(I − C_l) B_l A_l‖²_F over the LoRA layers of a model: call it without arguments, add λ times it to the loss.

    The sum runs over every anchor of the set (times its weight) and every trainable adapter. Layers of one shape go
    through one batched product, so the number of kernels does not grow with depth. Anchors stay float32 (or wider)
    whatever the module is cast to, autocast is off inside, and nothing of it is in the ``state_dict``: anchors have a
    file of their own.

    Args:
        model: A model with PEFT LoRA layers, wrapped or not.
        anchors: What :func:`build_anchors` made for it.
        scale_update: Penalise (α/r)·B·A, the true update, instead of the bare product of the authors' code.
        resumed: The adapter was trained from this aligned model before, so that B·A need not be 0 now.
        allow_unpenalised: Let other parameters be trained too, unseen by the penalty; they are logged.
        anchors_on_host: Keep the directions in (pinned) host memory, and copy them to the factors' device at each call:
            device memory for time.

    Raises:
        UnpenalisedError: If something would be trained that no anchor sees, or an anchor finds no layer.

    Example::

        anchors = build_anchors(model=model, aligned="org/model-chat", base="org/model", anchors=[Gram()])
        penalty = UpdatePenalty(model, anchors)
        loss = task_loss + 1.0 * penalty()
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: AnchorSet,
        *,
        scale_update: bool = False,
        resumed: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
    ) -> None:
        super().__init__()
        factors = find_lora_factors(model)
        _require_same_modules(factors, anchors)
        self.unpenalised = require_only_bound_trainable(model, factors, allow_unpenalised)
        if self.unpenalised:
            _log.warning("trained without a penalty: %s", ", ".join(self.unpenalised))
        if not resumed:
            require_zero_start(factors)
        groups: defaultdict[tuple[object, ...], list[_Bound]] = defaultdict(list)
        for factor in factors:
            member = _Bound(factor, [_Term.of(term, factor, scale_update) for term in anchors.terms])
            groups[member.kind].append(member)
        self.groups = nn.ModuleList(_Group(members, anchors_on_host) for members in groups.values())

    def forward(self) -> Tensor:
        """The penalty, a float32 scalar (float64 where the factors are) on the factors' device, never negative."""
        return torch.stack([group() for group in self.groups]).sum()


@dataclass(frozen=True)
class _Term:
    """One anchor of a sum, on one layer."""

    out: QuadraticForm | None
    inp: QuadraticForm | None
    weight: float

    @classmethod
    def of(cls, term: AnchorTerm, factors: LoRAFactors, scale_update: bool) -> Self:
        anchor = term.modules[factors.target.name]
        return cls(anchor.out, anchor.inp, term.weight * (factors.scaling**2 if scale_update else 1.0))


@dataclass(frozen=True)
class _Bound:
    """One pair of factors with the terms it is penalised by."""

    factors: LoRAFactors
    terms: Sequence[_Term]

    @property
    def kind(self) -> tuple[object, ...]:
        """What layers share that go through one batched product; widths within a factor of two are padded to one."""
        forms = [form for term in self.terms for form in (term.out, term.inp)]
        kinds = [None if form is None else (form.beta, _width_class(form)) for form in forms]
        return (*self.factors.a.shape, *self.factors.b.shape, *kinds)


class _Group(nn.Module):
    """Layers of one kind, stacked once for all terms. They are outside the module tree: the penalty owns no model."""

    def __init__(self, members: Sequence[_Bound], on_host: bool) -> None:
        super().__init__()
        self._factors = [member.factors for member in members]
        self._mesh = mesh_of(self._factors[0].b)
        terms = zip(*(m.terms for m in members), strict=True)
        dtype = torch.promote_types(self._factors[0].b.dtype, torch.float32)  # whatever the default dtype
        self.terms = nn.ModuleList(_Forms(term, on_host, self._mesh, dtype) for term in terms)

    def forward(self) -> Tensor:
        a, b = self._stacked("a", 2), self._stacked("b", 1)
        with torch.autocast(a.device.type, enabled=False):
            return torch.stack([term(a, b) for term in self.terms]).sum()

    def _stacked(self, side: str, width: int) -> Tensor:
        """The factors (L, r, d_in) or (L, d_out, r); of sharded ones this rank's piece along ``width``."""
        factors = [getattr(factor, side) for factor in self._factors]
        if mesh_of(factors[0]) != self._mesh:
            raise UnpenalisedError(
                f"{self._factors[0].target.name}: the penalty must be bound after the model is sharded, and its factors "
                "were sharded since. Call fully_shard first, then UpdatePenalty."
            )
        dtype = cast(_Forms, self.terms[0]).weights.dtype
        if self._mesh is not None:
            return stacked_shards(factors, width, dtype)
        return torch.stack([factor.to(dtype) for factor in factors])


class _Forms(nn.Module):
    """The forms of one term on the layers of a group, as buffers."""

    weights: Tensor

    def __init__(self, terms: Sequence[_Term], on_host: bool, mesh: DeviceMesh | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._on_host = on_host
        self._total: Total = whole if mesh is None else SumOverRanks(mesh)
        self.register_buffer("weights", torch.tensor([term.weight for term in terms], dtype=dtype), persistent=False)
        self._betas = {side: _register(self, side, [getattr(term, side) for term in terms], mesh) for side in ("out", "inp")}

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.weights * update_penalty(a, b, self._form("out"), self._form("inp"), self._total)).sum()

    def _form(self, side: str) -> QuadraticForm | None:
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


def _register(module: "_Forms", side: str, forms: Sequence[QuadraticForm | None], mesh: DeviceMesh | None) -> float | None:
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


def _require_same_modules(factors: Sequence[LoRAFactors], anchors: AnchorSet) -> None:
    """Every trained layer has its anchor and every anchor its layer, of the same shape."""
    layers = {factor.target.name: factor.target.shape for factor in factors}
    rule = "anchors and trained LoRA layers must be the same modules"
    remedy = "Build the anchors for this model and these target_modules."
    if missing := sorted(layers.keys() - anchors.shapes.keys()):
        raise UnpenalisedError(f"{missing[0]}: {rule}, but {len(missing)} layer(s) like this one have no anchor. {remedy}")
    if idle := sorted(anchors.shapes.keys() - layers.keys()):
        raise UnpenalisedError(f"{idle[0]}: {rule}, but {len(idle)} anchor(s) like this one have no layer. {remedy}")
    for name, shape in layers.items():
        if tuple(anchors.shapes[name]) != shape:
            raise UnpenalisedError(f"{name}: {rule}, but its anchor is for {anchors.shapes[name]}, it is {shape}. {remedy}")
