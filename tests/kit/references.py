"""The mathematics once more, naively: dense matrices in float64, as the paper writes them."""

import torch
from torch import Tensor


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthonormal(d: int, k: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(randn(d, k, seed=seed, dtype=torch.float64)).Q


def dense_gram(v: Tensor) -> Tensor:
    """The authors' C = V Vᵀ / ‖V‖_F."""
    v = v.double()
    return v @ v.mT / torch.linalg.matrix_norm(v)


def dense_projector(v: Tensor, k: int) -> Tensor:
    """Eq. 3 on the best rank-k part of V."""
    u = torch.linalg.svd(v.double()).U[:, :k]
    return u @ u.mT


def dense_penalty(a: Tensor, b: Tensor, c: Tensor, inp: Tensor | None = None) -> Tensor:
    """‖(I − C) B A N‖²_F with N = M_in^½ (the identity where ``inp`` is None), in float64."""
    a, b = a.double(), b.double()
    update = (torch.eye(b.shape[0], dtype=torch.float64) - c) @ b @ a
    return update.square().sum() if inp is None else (update @ inp * update).sum()


def value_and_gradients(penalty, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()
    value = penalty(a, b)
    return value.detach(), *torch.autograd.grad(value, (a, b))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest deviation as a share of the expected tensor's norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
