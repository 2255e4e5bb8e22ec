"""What a layer puts out on some inputs: its leading directions, and the start of an update that lies in them (SaLoRA)."""

from torch import Tensor

from asft_lightning.functional.decomposition import left_singular
from asft_lightning.functional.low_rank import low_rank
from asft_lightning.functional.principal import Principal


def output_directions(weight: Tensor, inputs: Principal, count: int) -> Tensor:
    """The leading left singular vectors of W·X, from the second moment of the inputs x, of which X has all as columns.

    Args:
        weight: W (d_out, d_in).
        inputs: G = E[x xᵀ], so that W·G·Wᵀ is that of the outputs.
        count: Directions, fewer where the outputs have fewer.

    Returns:
        U (d_out, k ≤ count), orthonormal, float64.
    """
    outputs = weight.double() @ (inputs.directions * inputs.values.sqrt())
    return left_singular(outputs).u[:, :count]


def projected_start(weight: Tensor, directions: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The leading part of W, within directions of what it puts out: B·A = UUᵀ·(W's best approximation of rank r).

    Args:
        weight: W (d_out, d_in).
        directions: U (d_out, k), orthonormal.
        rank: r.

    Returns:
        A = √S·Vᵀ (r, d_in) and B = UUᵀ·Ū·√S (d_out, r) of W ≈ Ū·S·Vᵀ, float64.
    """
    best = low_rank(weight, rank)
    root = best.a.norm(dim=1).clamp_min(1e-30).sqrt()  # A there is S·Vᵀ
    b = best.b * root
    return best.a / root[:, None], directions @ (directions.mT @ b)
