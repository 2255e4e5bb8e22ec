"""Where a fine-tuned model stands in a plane of two directions."""

import math
from collections.abc import Sequence

import torch

from asft_lightning.landscape.rays import Ray, cosines


def projected(update: Ray, first: Ray, second: Ray, names: Sequence[str]) -> tuple[float, float, float]:
    """An update's place in a plane, by least squares.

    Args:
        update: The update, unscaled.
        first: A direction that spans the plane.
        second: The other; they need not be orthogonal.
        names: Of the weights.

    Returns:
        (α, β, the share of the update's norm that lies outside the plane, 0..1).
    """
    (to_first, to_second), (_, between), _ = cosines([update, first, second], [first, second], names)
    along = torch.tensor([to_first, to_second], dtype=torch.float64)
    gram = torch.tensor([[1.0, between], [between, 1.0]], dtype=torch.float64)
    unit = torch.linalg.lstsq(gram, along[:, None]).solution[:, 0]
    within = min(float(unit @ along), 1.0)
    alpha, beta = (unit * update.norm / torch.tensor([first.norm, second.norm], dtype=torch.float64)).tolist()
    return alpha, beta, math.sqrt(1.0 - max(within, 0.0))
