"""The multiplier of a drift budget against root finding by bisection, and shares taken away against dense matrices."""

import pytest
import torch
from kit.references import orthonormal, randn, relative_error

from asft_lightning.functional import budget_multiplier, without_share


def cost(eigenvalues, energies, nu):
    return float((eigenvalues.double() * energies.double() / (1 + nu * eigenvalues.double()) ** 2).sum())


def bisected(eigenvalues, energies, limit):
    """The root to float64's last digits, in the logarithm of ν."""
    low, high = 0.0, 1.0
    while cost(eigenvalues, energies, high) > limit:
        low, high = high, high * 4
    if not low:
        low = high
        while cost(eigenvalues, energies, low) <= limit and low > 1e-300:
            high, low = low, low / 4
    for _ in range(120):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if cost(eigenvalues, energies, middle) > limit else (low, middle)
    return high


def spectrum(seed, spread):
    """Costs and energies over so many orders of magnitude, some of them 0."""
    e, c = 10 ** (spread * randn(40, seed=2 * seed).double()), 10 ** (spread * randn(40, seed=2 * seed + 1).double())
    e[seed % 40], c[(3 * seed) % 40] = 0.0, 0.0
    return e, c


@pytest.mark.parametrize("ratio", [1 + 1e-9, 1.5, 1e3, 1e9, 1e15])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 8.0])
def test_multiplier_is_the_root(spread, ratio):
    for seed in range(20):
        e, c = spectrum(seed, spread)
        limit = cost(e, c, 0.0) / ratio
        nu = budget_multiplier(e, c, limit)
        assert nu > 0
        assert cost(e, c, nu) == pytest.approx(limit, rel=1e-11)
        assert nu == pytest.approx(bisected(e, c, limit), rel=1e-4 if ratio < 1.1 else 1e-9)


def test_multiplier_is_that_of_brentq():
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(20):
        e, c = spectrum(seed, 1.0)
        limit = cost(e, c, 0.0) / 7
        expected = optimize.brentq(
            lambda nu, e=e, c=c, limit=limit: cost(e, c, nu) - limit, 0.0, 1e12, xtol=1e-300, rtol=1e-14
        )
        assert budget_multiplier(e, c, limit) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("e", "c", "limit", "expected"), [
    ([4.0], [1.0], 1.0, 0.25),  # 4 / (1 + 4ν)² = 1
    ([1.0, 1.0], [8.0, 10.0], 2.0, 2.0),  # 18 / (1 + ν)² = 2
    ([0.0, 2.0], [1e9, 2.0], 1.0, 0.5),  # what costs nothing does not count
    ([1e30], [1.0], 1e-30, 1.0),
])  # fmt: skip
def test_multiplier_by_hand(e, c, limit, expected):
    assert budget_multiplier(torch.tensor(e), torch.tensor(c), limit) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_nothing_to_do_within_the_limit(ratio):
    for seed in range(20):
        e, c = spectrum(seed, 2.0)
        assert budget_multiplier(e, c * ratio, cost(e, c, 0.0)) == 0.0


@pytest.mark.parametrize("zeros", ["energies", "eigenvalues"])
def test_what_costs_nothing_is_within_any_limit(zeros):
    e, c = torch.ones(5), torch.ones(5)
    (c if zeros == "energies" else e).zero_()
    assert budget_multiplier(e, c, 1e-30) == 0.0


def test_smaller_limits_take_more():
    e, c = spectrum(1, 2.0)
    found = [budget_multiplier(e, c, cost(e, c, 0.0) * share) for share in (0.9, 0.5, 0.1, 1e-3)]
    assert found == sorted(found) and len(set(found)) == 4


def test_shares_are_those_of_the_dense_matrices():
    rows, inside, outside = randn(3, 4, 10), torch.rand(3, 5), torch.rand(3)
    directions = torch.stack([orthonormal(10, 5, seed=i) for i in range(3)]).float()
    found = without_share(rows, rows @ directions, directions, inside, outside)
    for i in range(3):
        u = directions[i].double()
        taken = u @ torch.diag(inside[i].double()) @ u.mT + outside[i] * (torch.eye(10).double() - u @ u.mT)
        assert relative_error(found[i], rows[i].double() - rows[i].double() @ taken) < 1e-6


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_all_taken_away(share):
    rows, directions = randn(2, 4, 10), torch.stack([orthonormal(10, 5, seed=i) for i in range(2)]).float()
    found = without_share(rows, rows @ directions, directions, torch.full((2, 5), share), torch.full((2,), share))
    torch.testing.assert_close(found, rows * (1 - share), rtol=0, atol=1e-5)


def test_padding_takes_nothing_away():
    rows, u = randn(1, 4, 10), orthonormal(10, 3).float()
    padded = torch.cat([u, torch.zeros(10, 2)], dim=1)[None]
    inside, outside = torch.tensor([[0.2, 0.5, 1.0]]), torch.tensor([0.3])
    plain = without_share(rows, rows @ u, u[None], inside, outside)
    found = without_share(rows, rows @ padded, padded, torch.nn.functional.pad(inside, (0, 2)), outside)
    torch.testing.assert_close(found, plain)
