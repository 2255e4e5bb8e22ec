"""The gradient of each row's own loss from one backward pass over all of them, and which way it points."""

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


def unit_matrices(matrices: Tensor) -> Tensor:
    """Each matrix (…, m, n) divided by its Frobenius norm; one of zeros stays so."""
    norms: Tensor = torch.linalg.matrix_norm(matrices, keepdim=True)
    return matrices / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def matrix_cosines(matrices: Tensor, direction: Tensor) -> Tensor:
    """The cosine of each matrix (rows, m, n) with a direction (m, n), (rows,) in −1..1; 0 where one of them is 0."""
    return (unit_matrices(matrices) * unit_matrices(direction)).sum(dim=(1, 2)).clamp(-1, 1)
