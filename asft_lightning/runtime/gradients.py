"""The gradients of many parameters as one vector, of what this rank has of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from asft_lightning.runtime.sharding import own_part


@torch.no_grad()
def gradient_vector(parameters: Sequence[Tensor]) -> Tensor:
    """A copy of the gradients (n,), one after the other; 0 where a parameter has none."""
    return torch.cat([own_part(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


@torch.no_grad()
def set_gradient(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Write a vector like that of :func:`gradient_vector` into the gradients, in place: DDP's may be views."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    own = [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
    for gradient, part in zip(own, torch.split(vector, [gradient.numel() for gradient in own]), strict=True):
        gradient.copy_(part.view_as(gradient))
