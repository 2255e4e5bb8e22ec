"""SafetyModule: no update of a LoRA layer puts out anything along some directions (SaLoRA's fixed C = I − UUᵀ)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from asft_lightning.functional import Total, whole
from asft_lightning.runtime.precision import keep_float32
from asft_lightning.runtime.sharding import SumOverRanks, mesh_of, own_part, own_rows
from asft_lightning.weights.targets import LoRAFactors, find_lora_factors


class SafetyModule(nn.Module):
    """Trains C·B·A in place of B·A: :meth:`project` gradients before each step, and :meth:`hold` the factors after it.

    B is kept as C·B, so that the adapter is a plain one. That is the same as W·x + C·B·A·x with a free B: its gradient is C
    times that of C·B, and what an optimizer that goes element by element gives it beyond C's range, C takes away again.

    Args:
        model: A model with PEFT LoRA layers.
        directions: {layer: U (d_out, k), orthonormal}, of each.
        is_halved: Whether the first half of the rank is trained alone, and the other stays as it is.
        prompts: A hash of each prompt that the directions come from.
    """

    def __init__(
        self, model: nn.Module, directions: Mapping[str, Tensor], is_halved: bool = False, prompts: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.prompts = frozenset(prompts)
        alike: dict[object, list[LoRAFactors]] = {}
        for factor in find_lora_factors(model):
            kind = factor.a.shape, factor.b.shape, directions[factor.target.name].shape
            alike.setdefault(kind, []).append(factor)
        self.groups = nn.ModuleList(
            _Alike(group, torch.stack([directions[f.target.name] for f in group]), is_halved) for group in alike.values()
        )

    @torch.no_grad()
    def project(self) -> None:
        """Gradients as those of what is trained; of sharded factors every rank must call this."""
        for group in self.groups:
            cast(_Alike, group).project()

    @torch.no_grad()
    def hold(self) -> None:
        """Nothing of B beyond C's range, whatever a step has made of it; of sharded factors every rank must call this."""
        for group in self.groups:
            cast(_Alike, group).hold()


class _Alike(nn.Module):
    """Layers of one shape, in one batched product."""

    directions: Tensor
    is_trained: Tensor

    def __init__(self, factors: Sequence[LoRAFactors], directions: Tensor, is_halved: bool) -> None:
        super().__init__()
        rank = factors[0].a.shape[0]
        self.factors, self.trained = factors, rank // 2 if is_halved else rank
        mesh = mesh_of(factors[0].b)
        self.total: Total = whole if mesh is None else SumOverRanks(mesh)
        directions = directions.to(torch.promote_types(factors[0].b.dtype, torch.float32))
        is_trained = (torch.arange(rank) < self.trained).to(directions)[:, None]
        parts = {"directions": directions, "is_trained": is_trained}
        for name, part in parts.items():
            place = own_part(factors[0].b).device
            self.register_buffer(name, (part if mesh is None else own_rows(part, mesh)).to(place), persistent=False)

    def project(self) -> None:
        of_a, of_b = ([own_part(p.grad) for p in ps if p.grad is not None] for ps in zip(*self._pairs(), strict=True))
        if len(of_b) < len(self.factors):
            return  # before the first backward pass
        for gradient in of_a:
            gradient.mul_(self.is_trained)
        self._leave_out(of_b)
        for gradient in of_b:
            gradient[:, self.trained :] = 0

    def hold(self) -> None:
        self._leave_out([own_part(b.detach()) for _, b in self._pairs()])

    def _leave_out(self, of_b: list[Tensor]) -> None:
        """C·M for each M (d_out, r), in place."""
        stacked = torch.stack(of_b).to(self.directions.dtype)
        beyond = self.directions @ self.total(self.directions.mT @ stacked)
        torch._foreach_sub_(of_b, [part.to(of_b[0].dtype) for part in beyond.unbind()])

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return [(factor.a, factor.b) for factor in self.factors]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Directions follow moves between devices, and never casts to less than float32."""
        module: Self = super()._apply(keep_float32(fn), recurse)  # type: ignore[no-untyped-call]
        return module
