"""What a finished update B·A becomes when it is taken back to its anchor, where only B changes; and its figures.

Shapes: A (r, d_in), B (d_out, r), V (d_out, d_in), U (d_out, k).
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor

from asft_lightning.functional.quadratic_form import QuadraticForm

_ROWS = 256

Factors: TypeAlias = tuple[Tensor, Tensor]
"""(A, B) of an update."""


def gram_applied(v: Tensor, lora_b: Tensor) -> Tensor:
    """C·B (d_out, r) with C = VVᵀ/‖V‖_F, as V(VᵀB)/‖V‖_F in float64: no d_out × d_out matrix, no eigenvector left out.

    Source: Safe LoRA, arXiv 2405.16833, and its authors' code.

    Args:
        v: V, not zero, in any dtype; no more than a few rows of it are copied at a time.
        lora_b: B.
    """
    parts = list(zip(torch.split(v, _ROWS), torch.split(lora_b.double(), _ROWS), strict=True))
    inside, squares = torch.zeros(v.shape[1], lora_b.shape[1], dtype=torch.float64, device=v.device), 0.0
    for rows, b in parts:
        inside += rows.double().mT @ b
        squares += float(rows.double().square().sum())
    return torch.cat([rows.double() @ inside for rows, _ in parts]) / math.sqrt(squares)


def shrunk(lora_b: Tensor, out: QuadraticForm | None, strength: float) -> Tensor:
    """(I + λM)⁻¹B (d_out, r): the proximal map of the penalty λ⟨X, M X⟩ on the update.

    For ΔW = B·A the minimiser of ‖X − ΔW‖²_F + λ⟨X, M X⟩ over all X (d_out, d_in) solves X − ΔW + λMX = 0, so
    X = (I + λM)⁻¹B·A: of ΔW's rank, with A as it is, and the same for any factors of the same ΔW. With
    M = β(I − UUᵀ) + U diag(w) Uᵀ the inverse is (I − UUᵀ)/(1 + λβ) + U diag(1/(1 + λw)) Uᵀ.

    Args:
        lora_b: B.
        out: M; None is the identity.
        strength: λ ≥ 0.
    """
    if out is None:
        return lora_b / (1 + strength)
    inside = out.directions.mT @ lora_b
    within = out.directions @ (inside / (1 + strength * out.weights).unsqueeze(-1))
    return (lora_b - out.directions @ inside) / (1 + strength * out.beta) + within


def update_product(factors: Factors, others: Factors) -> float:
    """⟨B·A, B'·A'⟩_F of (A, B) and (A', B'), from r × r matrices in float64."""
    (a, b), (other_a, other_b) = ((a.double(), b.double()) for a, b in (factors, others))
    return float(((b.mT @ other_b) * (a @ other_a.mT)).sum())


def update_cosine(factors: Factors, others: Factors) -> float:
    """Cosine between the updates B·A and B'·A' as vectors; 0 where one of them is 0."""
    sizes = update_product(factors, factors) * update_product(others, others)
    return update_product(factors, others) / sizes**0.5 if sizes > 0 else 0.0
