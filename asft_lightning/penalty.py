"""UpdatePenalty: the anchors bound to a model's LoRA layers, by name."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from asft_lightning.anchors.anchor_set import AnchorSet, AnchorTerm
from asft_lightning.anchors.targets import (
    LoRAFactors,
    find_lora_factors,
    require_only_bound_trainable,
    require_zero_start,
)
from asft_lightning.errors import UnpenalisedError
from asft_lightning.functional import QuadraticForm, update_penalty
from asft_lightning.precision import keep_float32

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
    ) -> None:
        super().__init__()
        factors = find_lora_factors(model)
        _require_same_modules(factors, anchors)
        self.unpenalised = require_only_bound_trainable(model, factors, allow_unpenalised)
        if self.unpenalised:
            _log.warning("trained without a penalty: %s", ", ".join(self.unpenalised))
        if not resumed:
            require_zero_start(factors)
        groups = [group for term in anchors.terms for group in _grouped(factors, term, scale_update)]
        self.groups = nn.ModuleList(groups)

    def forward(self) -> Tensor:
        """The penalty, a float32 scalar (float64 after ``.double()``) on the factors' device, never negative."""
        return torch.stack([group() for group in self.groups]).sum()


@dataclass(frozen=True)
class _Bound:
    """One pair of factors with the forms it is penalised by."""

    factors: LoRAFactors
    out: QuadraticForm | None
    inp: QuadraticForm | None
    weight: float

    @property
    def key(self) -> tuple[object, ...]:
        """What layers must share to go through one batched product."""
        betas = tuple(None if form is None else form.beta for form in (self.out, self.inp))
        return (*self.factors.a.shape, *self.factors.b.shape, *betas)


class _Group(nn.Module):
    """Layers of one shape. They are kept outside the module tree: the penalty owns anchors, not the model."""

    weights: Tensor

    def __init__(self, members: Sequence[_Bound]) -> None:
        super().__init__()
        self._factors = [member.factors for member in members]
        self._betas = {"out": _register(self, "out", [m.out for m in members])}
        self._betas["inp"] = _register(self, "inp", [m.inp for m in members])
        weights = torch.tensor([member.weight for member in members], dtype=torch.float32)  # whatever the default dtype
        self.register_buffer("weights", weights, persistent=False)

    def forward(self) -> Tensor:
        a, b = (_stacked([getattr(f, side) for f in self._factors], self.weights.dtype) for side in ("a", "b"))
        with torch.autocast(a.device.type, enabled=False):
            return (self.weights * update_penalty(a, b, self._form("out"), self._form("inp"))).sum()

    def _form(self, side: str) -> QuadraticForm | None:
        beta = self._betas[side]
        if beta is None:
            return None
        return QuadraticForm(beta, getattr(self, f"{side}_directions"), getattr(self, f"{side}_weights"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Anchors follow moves between devices, never casts to less than float32."""
        module: Self = super()._apply(keep_float32(fn), recurse)  # type: ignore[no-untyped-call]
        return module


def _register(group: _Group, side: str, forms: Sequence[QuadraticForm | None]) -> float | None:
    """Stack the forms of one side as buffers (L, d, k) and (L, k), padded with zero directions, which change nothing."""
    present = [form for form in forms if form is not None]
    if not present:
        return None
    width = max(form.directions.shape[-1] for form in present)

    def padded(tensor: Tensor) -> Tensor:
        return nn.functional.pad(tensor, (0, width - tensor.shape[-1])).float()

    group.register_buffer(f"{side}_directions", torch.stack([padded(f.directions) for f in present]), persistent=False)
    group.register_buffer(f"{side}_weights", torch.stack([padded(f.weights) for f in present]), persistent=False)
    return present[0].beta


def _stacked(factors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([factor.to(dtype) for factor in factors])


def _grouped(factors: Sequence[LoRAFactors], term: AnchorTerm, scale_update: bool) -> list[_Group]:
    groups: defaultdict[tuple[Any, ...], list[_Bound]] = defaultdict(list)
    for factor in factors:
        anchor = term.modules[factor.target.name]
        weight = term.weight * (factor.scaling**2 if scale_update else 1.0)
        bound = _Bound(factor, anchor.out, anchor.inp, weight)
        groups[bound.key].append(bound)
    return [_Group(members) for members in groups.values()]


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
