"""The gradient of each row's own loss from one backward pass over all of them, and how far it points one way."""

from collections.abc import Mapping

import torch
from torch import Tensor


def row_gradients(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Each row's gradient of a linear map's weight, Σ_t g_t x_tᵀ.

    Args:
        inputs: What the map takes, x, of each row's tokens (rows, tokens, d_in).
        gradients: Of the sum of the rows' losses by what the map puts out, g (rows, tokens, d_out); 0 at padding.

    Returns:
        (rows, d_out, d_in).
    """
    return gradients.mT @ inputs


def row_norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """‖P_i‖ of each row's gradients of all maps together.

    Args:
        gradients: {map: (rows, d_out, d_in)}.

    Returns:
        (rows,).
    """
    squares = [of_map.square().sum(dim=(1, 2)) for of_map in gradients.values()]
    return torch.stack(squares).sum(dim=0).sqrt()


def row_cosines(gradients: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensor:
    """The cosine of each row's gradients, of all maps together, with a direction; 0 where one of them is 0.

    Args:
        gradients: {map: (rows, d_out, d_in)}.
        direction: {map: (d_out, d_in)}.

    Returns:
        (rows,), in −1..1.
    """
    products = torch.stack([(of_map * direction[name]).sum(dim=(1, 2)) for name, of_map in gradients.items()])
    lengths = row_norms(gradients) * row_norms({name: part[None] for name, part in direction.items()})
    tiny = torch.finfo(lengths.dtype).tiny
    return (products.sum(dim=0) / lengths.clamp_min(tiny)).clamp(-1, 1)
