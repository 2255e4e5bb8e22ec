"""Fisher's discriminant against its dense formula in float64."""

import torch

from asft_lightning.functional import discriminant


def test_dense_formula():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 30, generator=generator, dtype=torch.float64) + n for n in (7, 9))
    within = torch.cat([first - first.mean(0), second - second.mean(0)])
    covariance = within.mT @ within / 16
    ridge = 0.1 * covariance.trace() / 30 * torch.eye(30, dtype=torch.float64)
    dense = torch.linalg.inv(covariance + ridge) @ (first.mean(0) - second.mean(0))
    w, b = discriminant(first, second, 0.1)

    torch.testing.assert_close(w / w.norm(), dense / dense.norm())
    torch.testing.assert_close((within @ w).square().mean().sqrt(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close((second @ w + b).mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (first @ w + b).mean() > 1
