"""The maps onto the alignment direction V = W_aligned − W_base, as quadratic forms on the output side.

Sources: arXiv 2506.08473, Eq. 3 and 4, and the authors' code; Safe LoRA, arXiv 2405.16833. ``d_out, d_in`` is the shape
of one weight, ``k`` the number of directions kept.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from asft_lightning.functional.decomposition import (
    LeftSingular,
    leading_left_singular,
    low_rank_left_singular,
    working_dtype,
)
from asft_lightning.functional.quadratic_form import QuadraticForm


@dataclass(frozen=True)
class Spectrum:
    """What a user has to see of one module's map C.

    Args:
        norm: ‖V‖_F (or ‖d_harm‖_F) of the whole matrix.
        trace: Trace of C before any direction was dropped.
        largest: Largest eigenvalue of C; near 0 the penalty is plain shrinkage, above 2 the anchor repels.
        kept: Directions kept.
        energy: Share of ‖V‖²_F along them.
        error_bound: Proven bound on (penalty with the kept directions) / (penalty with all) − 1, for any update (of
            ``Activation``: on what its inputs have along any one direction not kept, as a share of all they have).
    """

    norm: float = 0.0
    trace: float = 0.0
    largest: float = 0.0
    kept: int = 0
    energy: float = 0.0
    error_bound: float = 0.0


class AlignmentMap(NamedTuple):
    """A map C = U diag(c) Uᵀ and the form it penalises an update with.

    Attributes:
        form: float32 ``QuadraticForm``; its directions are U (d_out, k).
        eigenvalues: c (k,) of C on those directions.
        spectrum: Figures of the map, for people.
    """

    form: QuadraticForm
    eigenvalues: Tensor
    spectrum: Spectrum


def gram_map(v: Tensor, tolerance: float = 0.01) -> AlignmentMap:
    """The authors' C = VVᵀ/‖V‖_F, with (1 − c)² on the kept eigenvectors and 1 on all others.

    Dropping an eigenpair replaces (1 − c)² by 1 ≥ (1 − c)², a growth by at most 1/(1 − c)², so dropping every
    c < 1 − (1 + tolerance)^(−1/2) keeps the relative error of the penalty under ``tolerance`` whatever the update.

    Args:
        v: V (d_out, d_in), not zero; a large one should be float32, and serves as workspace.
        tolerance: bound on the relative error, ≥ 0; 0 keeps every eigenpair.

    Raises:
        ValueError: If ``tolerance`` is negative, or V = 0.
    """
    if not tolerance >= 0:
        raise ValueError(f"Gram needs a tolerance of 0 or more, got {tolerance}. The default 0.01 is a 1 % bound.")
    norm = _norm(v)
    droppable = 1 - (1 + tolerance) ** -0.5

    def cut(decomposition: LeftSingular) -> tuple[Tensor, int, float]:
        c = decomposition.sigma.double().square() / norm
        margin = 0.1 * droppable if decomposition.rest else 0.0  # what is left of the bound for directions not quite turned
        keep = int((c >= droppable - margin).sum())
        return c, keep, _error_bound(c, keep, decomposition.leak.double() / norm, decomposition.rest**2 / norm)

    decomposition = leading_left_singular(
        v, lambda _: math.sqrt(0.9 * droppable * norm), lambda candidate: cut(candidate)[2] <= tolerance
    )
    _require_directions(decomposition.sigma)
    c, keep, error_bound = cut(decomposition)
    form = QuadraticForm(1.0, decomposition.u[:, :keep].float(), (1 - c[:keep]).square().float())
    spectrum = Spectrum(norm, norm, float(c[0]), keep, float(c[:keep].sum()) / norm, error_bound)
    return AlignmentMap(form, c[:keep].float(), spectrum)


def _error_bound(c: Tensor, keep: int, leak: Tensor, rest: float) -> float:
    """Bound on |penalty with the first ``keep`` pairs / penalty with C − 1|, for any update.

    Write x = Uz + y with y ⟂ U for a column of the update, P = I − UUᵀ, N = I − C and N' for N without what is dropped:
    N = N' − PCU Uᵀ − U(PCU)ᵀ − PCP. With s ≥ ‖PCP‖ and E = PCU, ‖N'x‖ ≤ (‖Nx‖ + η‖N'x‖)/(1 − s) and
    ‖Nx‖ ≤ (1 + η)‖N'x‖, where η = ‖E diag(1/|1 − c|)‖_F + ‖E‖_F is 0 for exact eigenvectors.
    """
    dropped = max(rest, float(c[keep]) if keep < len(c) else 0.0) + float(leak[keep:].norm())
    off = float((leak[:keep] / (1 - c[:keep]).abs().clamp_min(1e-300)).norm() + leak[:keep].norm())
    if dropped + off >= 1:
        return math.inf
    return max((1 - dropped - off) ** -2 - 1, 1 - (1 + off) ** -2)


def subspace_map(v: Tensor, num_directions: int | None = None, explained_variance: float | None = None) -> AlignmentMap:
    """Eq. 3 on the top singular directions of V: C is the orthogonal projector on their span.

    Args:
        v: V (d_out, d_in), not zero.
        num_directions: k, how many directions to keep; or
        explained_variance: the smallest k whose directions hold this share of ‖V‖²_F, in (0, 1].

    Raises:
        ValueError: If not exactly one of the two is given, if one is out of its range, or if the span is all of the
            output space (a full-rank projector is I, and the penalty 0 for every update), or V = 0.
    """
    if (num_directions is None) == (explained_variance is None):
        raise ValueError(
            "Subspace needs exactly one of num_directions and explained_variance, got "
            f"num_directions={num_directions}, explained_variance={explained_variance}. Leave the other one null."
        )
    if explained_variance is not None and not 0 < explained_variance <= 1:
        raise ValueError(f"Subspace needs 0 < explained_variance ≤ 1, got {explained_variance}. 0.9 keeps 90 % of ‖V‖².")
    norm = _norm(v)

    def wanted(singular_values: Tensor) -> int:  # more than were found where these cannot tell
        if num_directions is not None:
            return num_directions
        assert explained_variance is not None
        return int((singular_values.double().square().cumsum(0) < (explained_variance - 1e-12) * norm**2).sum()) + 1

    def ceiling(singular_values: Tensor) -> float:
        return 1.01 * float(singular_values[k - 1]) if (k := wanted(singular_values)) <= len(singular_values) else 0.0

    u, sigma, _, _ = leading_left_singular(v, ceiling)
    _require_directions(sigma)
    k = wanted(sigma) if num_directions is not None else min(wanted(sigma), len(sigma))
    if not 1 <= k <= len(sigma):
        raise ValueError(f"Subspace needs 1 ≤ num_directions ≤ rank of V = {len(sigma)}, got {k}. Choose a k within.")
    if k >= v.shape[0]:
        raise ValueError(
            f"Subspace would keep all {v.shape[0]} output directions: C = I, and the penalty is 0 for every update. "
            "Keep fewer num_directions or a smaller explained_variance."
        )
    form = QuadraticForm(1.0, u[:, :k].float(), _filled(sigma, k, 0.0))
    return AlignmentMap(form, _filled(sigma, k, 1.0), Spectrum(norm, float(k), 1.0, k, _energy(sigma, k, norm)))


def harmful_map(lora_a: Tensor, lora_b: Tensor, num_directions: int | None = None) -> AlignmentMap:
    """AsFT-Alt: the top output directions of a harmful update d_harm = B·A, penalised themselves (β 0, w 1).

    Args:
        lora_a: A (r, d_in) of the adapter tuned on harmful rows.
        lora_b: B (d_out, r) of it.
        num_directions: k ≤ rank of B·A; None keeps all of them.

    Raises:
        ValueError: If ``num_directions`` is outside 1..rank.
    """
    u, sigma, _, _ = low_rank_left_singular(lora_a, lora_b)
    k = len(sigma) if num_directions is None else num_directions
    if not 1 <= k <= len(sigma):
        raise ValueError(
            f"Harmful needs 1 ≤ num_directions ≤ rank of the harmful update = {len(sigma)}, got {k}. "
            "Choose a k within, or null for all; a rank of 0 means that the harmful adapter was not trained."
        )
    norm = float(sigma.norm())
    form = QuadraticForm(0.0, u[:, :k].float(), _filled(sigma, k, 1.0))
    return AlignmentMap(form, _filled(sigma, k, 1.0), Spectrum(norm, float(k), 1.0, k, _energy(sigma, k, norm)))


def split_factor(lora_b: Tensor, directions: Tensor, eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Split B so that B·A = C·BA + (I − C)·BA, the aligned and the orthogonal part of the update.

    Args:
        lora_b: B (..., d_out, r).
        directions: U (..., d_out, k).
        eigenvalues: c (..., k); C = U diag(c) Uᵀ.

    Returns:
        (aligned, orthogonal), each (..., d_out, r); times A they are the two parts, and they sum to B.
    """
    aligned = directions @ (eigenvalues.unsqueeze(-1) * (directions.mT @ lora_b))
    return aligned, lora_b - aligned


def _require_directions(sigma: Tensor) -> None:
    if not len(sigma):
        raise ValueError("V = W_aligned − W_base must not be 0: it has no direction. Are the two checkpoints the same?")


def _filled(like: Tensor, k: int, value: float) -> Tensor:
    return like.new_full((k,), value, dtype=torch.float32)  # not the default dtype, which precision plugins change


def _energy(sigma: Tensor, k: int, norm: float) -> float:
    return float(sigma[:k].double().square().sum()) / norm**2


def _norm(matrix: Tensor) -> float:
    exact = matrix.to(torch.promote_types(matrix.dtype, working_dtype((matrix.shape[0], matrix.shape[1]))))
    return float(torch.linalg.vector_norm(exact, dim=1).double().norm())
