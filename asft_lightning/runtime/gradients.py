"""The gradients of many parameters as one vector, of what this rank has of them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from asft_lightning.runtime.sharding import own_part


@torch.no_grad()
def gradient_vector(parameters: Sequence[Tensor]) -> Tensor:
    """A copy of the gradients (n,), one after the other; 0 where a parameter has none."""
    return torch.cat([own_part(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of the gradients as one vector, a scalar on the device; where they are sharded, every rank has to ask."""
    norm: Tensor = get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@torch.no_grad()
def set_gradient(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Write a vector like that of :func:`gradient_vector` into the gradients, in place: DDP's may be views."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    own = [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
    for gradient, part in zip(own, torch.split(vector, [gradient.numel() for gradient in own]), strict=True):
        gradient.copy_(part.view_as(gradient))
