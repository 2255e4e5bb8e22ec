"""WeightGroup: trained weight matrices of one kind with the forms they are penalised by, and what they were before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.errors import UnpenalisedError
from asft_lightning.functional import full_update_penalty
from asft_lightning.penalty.forms import BoundTerm, Forms, in_host_memory, kind_of
from asft_lightning.runtime.sharding import mesh_of, own_part
from asft_lightning.weights.trained_weights import TrainedWeight

_MOST_ELEMENTS = 2**25
"""Of the matrices of one batched product: it takes a few times that, whatever the model's size."""


@dataclass(frozen=True)
class BoundWeight:
    """One weight matrix with the terms it is penalised by, whose ``out`` is the side of its rows as it is kept."""

    weight: TrainedWeight
    terms: Sequence[BoundTerm]

    @classmethod
    def of(cls, weight: TrainedWeight, terms: Sequence[AnchorTerm]) -> Self:
        """The weight with the anchors of its layer; a transposed one has its inputs as rows, and the trace is the same."""
        bound = []
        for term in terms:
            anchor = term.modules[weight.target.name]
            sides = (anchor.inp, anchor.out) if weight.target.transposed else (anchor.out, anchor.inp)
            bound.append(BoundTerm(*sides, term.weight * anchor.factor(scaling=1.0)))
        return cls(weight, bound)

    @property
    def kind(self) -> tuple[object, ...]:
        """What weights share that go through one batched product."""
        return (*self.weight.parameter.shape, *kind_of(self.terms))


class WeightGroup(nn.Module):
    """Weights of one kind, stacked for all terms. They are outside the module tree: the penalty owns no model.

    Args:
        members: The weights; what they are now is what their update is measured from.
        anchors_on_host: Whether the forms' directions stay in host memory.
        aligned_on_host: Whether W_aligned does.
    """

    aligned: Tensor

    def __init__(self, members: Sequence[BoundWeight], anchors_on_host: bool, aligned_on_host: bool) -> None:
        super().__init__()
        self._weights = [member.weight for member in members]
        self._on_host = aligned_on_host
        parameter = self._weights[0].parameter
        self._mesh = mesh_of(parameter)
        dtype = torch.promote_types(parameter.dtype, torch.float32)  # whatever the default dtype
        terms = zip(*(member.terms for member in members), strict=True)
        # A rank has some rows of each weight, and whole ones: of the columns' side it needs all directions.
        self.terms = nn.ModuleList(Forms(term, anchors_on_host, self._mesh, dtype, sharded=("out",)) for term in terms)
        self.register_buffer("aligned", _in_few_bytes(torch.stack([w.detach() for w in self._own()])), persistent=False)

    def forward(self) -> Tensor:
        """The penalty of all layers and terms, a scalar."""
        weights = self._own()
        with torch.autocast(weights[0].device.type, enabled=False):
            return torch.stack([self._penalty(cast(Forms, term), weights) for term in self.terms]).sum()

    def _penalty(self, term: Forms, weights: Sequence[Tensor]) -> Tensor:
        found = full_update_penalty(weights, self.aligned, term.form("out"), term.form("inp"), term.total)
        return (term.weights * found).sum()

    def _own(self) -> list[Tensor]:
        """The weights; of sharded ones this rank's rows."""
        parameters = [weight.parameter for weight in self._weights]
        if mesh_of(parameters[0]) != self._mesh:
            raise UnpenalisedError(
                f"{self._weights[0].target.name}: the penalty must be bound after the model is sharded, and its weights "
                "were sharded since. Call fully_shard first, then FullUpdatePenalty."
            )
        return [own_part(parameter) for parameter in parameters]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """W_aligned follows moves between devices, unless it stays on the host, and is never rounded."""

        def moved(tensor: Tensor) -> Tensor:
            return in_host_memory(tensor) if self._on_host else tensor.to(fn(tensor.new_empty(0)).device)

        for part in self.children() if recurse else ():
            part._apply(fn)  # type: ignore[no-untyped-call]
        module: Self = super()._apply(moved, recurse=False)  # type: ignore[no-untyped-call]
        return module


def in_batches(members: Sequence[BoundWeight]) -> list[Sequence[BoundWeight]]:
    """Weights of one kind in groups whose products take a bounded memory."""
    count = max(1, _MOST_ELEMENTS // members[0].weight.parameter.numel())
    return [members[i : i + count] for i in range(0, len(members), count)]


def _in_few_bytes(weights: Tensor) -> Tensor:
    """The same numbers, in 16 bits where they fit: most checkpoints are kept so, and trained in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        short = weights.to(dtype)
        if torch.equal(short.to(weights.dtype), weights):
            return short
    return weights
