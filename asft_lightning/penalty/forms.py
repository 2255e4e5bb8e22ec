"""Forms: what one anchor of a sum makes of layers of one kind, stacked for batched products."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from asft_lightning.functional import QuadraticForm, Total, whole
from asft_lightning.runtime.precision import keep_float32
from asft_lightning.runtime.sharding import SumOverRanks, own_rows

Side = Literal["out", "inp"]
SIDES: tuple[Side, Side] = ("out", "inp")


@dataclass(frozen=True)
class BoundTerm:
    """One anchor of a sum, on one layer."""

    out: QuadraticForm | None
    inp: QuadraticForm | None
    weight: float


def kind_of(terms: Sequence[BoundTerm]) -> tuple[object, ...]:
    """What layers must share to go through one batched product; widths within a factor of two are padded to one."""
    forms = [form for term in terms for form in (term.out, term.inp)]
    return tuple(None if form is None else (form.beta, _width_class(form)) for form in forms)


class Forms(nn.Module):
    """The forms of one term on the layers of a group, as buffers.

    Args:
        terms: Of each layer.
        on_host: Whether the directions stay in host memory.
        mesh: The ranks over which what is penalised is sharded; None where each has all of it.
        dtype: Of the forms.
        sharded: The sides whose width is parted over the ranks, each of which keeps its own rows of the directions.
    """

    weights: Tensor

    def __init__(
        self,
        terms: Sequence[BoundTerm],
        on_host: bool,
        mesh: DeviceMesh | None,
        dtype: torch.dtype,
        sharded: Collection[str] = SIDES,
    ) -> None:
        super().__init__()
        self._on_host = on_host
        self.total: Total = whole if mesh is None else SumOverRanks(mesh)
        self.register_buffer("weights", torch.tensor([term.weight for term in terms], dtype=dtype), persistent=False)
        parted = {side: mesh if side in sharded else None for side in SIDES}
        self._betas = {side: _register(self, side, [getattr(term, side) for term in terms], parted[side]) for side in SIDES}

    def form(self, side: Side) -> QuadraticForm | None:
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
            return in_host_memory(tensor.to(exact(tensor.new_empty(0)).dtype)) if stays else exact(tensor)

        module: Self = super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return module


def in_host_memory(tensor: Tensor) -> Tensor:
    """The tensor in host memory, from where it is soon on a GPU."""
    return tensor.cpu().pin_memory() if torch.cuda.is_available() else tensor.cpu()


def _register(module: Forms, side: Side, forms: Sequence[QuadraticForm | None], mesh: DeviceMesh | None) -> float | None:
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
