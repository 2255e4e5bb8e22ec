"""The penalty on an update of whole weight matrices (AsFT, arXiv 2506.08473, for full fine-tuning).

Shapes: ``L`` layers of one shape, whose weights are kept as ``m`` rows and ``n`` columns, ``k`` directions of a side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from asft_lightning.functional.quadratic_form import QuadraticForm, Total, whole


def full_update_penalty(
    weights: Sequence[Tensor],
    aligned: Tensor,
    rows: QuadraticForm | None = None,
    columns: QuadraticForm | None = None,
    total: Total = whole,
) -> Tensor:
    """tr(ΔWᵀ M_rows ΔW M_columns) = ‖M_rows^½ ΔW M_columns^½‖²_F of ΔW = W − W_aligned, one value a layer.

    No m × m or n × n matrix is formed: the cost is O(m n k). It is a sum of squares, and its gradient is the closed form
    2·M_rows ΔW M_columns. Between the two passes only UᵀΔW (L, k, n) is kept, and not ΔW, which is found again: nothing of
    the weights' own size. The forms are constants.

    Args:
        weights: W (m, n) of each layer, or this rank's rows of it.
        aligned: W_aligned (L, m, n) of the same rows, in any dtype that holds it, on any device.
        rows: M on the rows' side, whose directions are of the same rows; None is the identity.
        columns: M on the columns' side; None is the identity.
        total: Where m is sharded, the sum over the shards: each rank then gets the whole penalty, and the gradient of its
            own rows.

    Returns:
        The penalty (L,), never negative. With both sides None it is ‖ΔW‖²_F.
    """
    penalty: Tensor = _FullUpdatePenalty.apply(aligned, rows, columns, total, *weights)  # type: ignore[no-untyped-call]
    return penalty


class _FullUpdatePenalty(Function):
    @staticmethod
    def forward(
        ctx: Any, aligned: Tensor, rows: QuadraticForm | None, columns: QuadraticForm | None, total: Total, *weights: Tensor
    ) -> Tensor:
        update = _update(weights, aligned)
        inside = None if rows is None else total(rows.directions.mT @ update)
        ctx.rows, ctx.columns, ctx.inside = rows, columns, inside
        ctx.save_for_backward(aligned, *weights)
        return total(_between(update, rows, inside, columns, 0.5).square().sum(dim=(-2, -1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        aligned, *weights = ctx.saved_tensors
        update = _update(weights, aligned)
        gradients = _between(update, ctx.rows, ctx.inside, ctx.columns, 1.0).mul_((2 * upstream)[:, None, None])
        return None, None, None, None, *(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True))


def _update(weights: Sequence[Tensor], aligned: Tensor) -> Tensor:
    """ΔW (L, m, n), in float32 or wider."""
    dtype = torch.promote_types(weights[0].dtype, torch.float32)
    return torch.stack([weight.to(dtype) for weight in weights]).sub_(aligned.to(weights[0].device, non_blocking=True))


def _between(
    update: Tensor, rows: QuadraticForm | None, inside: Tensor | None, columns: QuadraticForm | None, power: float
) -> Tensor:
    """M_rows^power ΔW M_columns^power (L, m, n)."""
    if rows is not None and inside is not None:
        update = rows.powered(update, inside, power)
    if columns is None:
        return update
    return columns.powered(update.mT, columns.directions.mT @ update.mT, power).mT
