"""The penalty on an update B·A (AsFT, arXiv 2506.08473, Eq. 4), in the factored form of every variant."""

from torch import Tensor

from asft_lightning.functional.quadratic_form import QuadraticForm, factor_gram


def update_penalty(
    lora_a: Tensor, lora_b: Tensor, out: QuadraticForm | None = None, inp: QuadraticForm | None = None
) -> Tensor:
    """⟨BᵀM_out B, A M_in Aᵀ⟩ = ‖M_out^½ B A M_in^½‖²_F, one value per leading index.

    Neither a d_out × d_out nor a d_out × d_in matrix is formed: the cost is O((d_out + d_in) r (k + r)).

    Args:
        lora_a: A (..., r, d_in).
        lora_b: B (..., d_out, r).
        out: M_out on the output side; None is the identity.
        inp: M_in on the input side; None is the identity.

    Returns:
        The penalty (...), never negative. With both sides None it is ‖BA‖²_F.
    """
    product = factor_gram(lora_b, out) * factor_gram(lora_a.mT, inp)
    # The inner product of two positive semi-definite matrices is not negative; only its rounding can be.
    return product.sum(dim=(-2, -1)).clamp_min(0.0)
