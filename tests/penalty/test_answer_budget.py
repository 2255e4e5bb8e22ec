"""The weight that keeps a divergence within a limit: on a toy problem, at its bounds, and with spoilt values."""

import pytest
import torch

from asft_lightning import AnswerBudget, ConfigurationError


def held(limit, start, optimizer, noise=1.0, steps=400):
    """θ is drawn to a point and held at 0 by a divergence ½θᵀDθ that a step sees some times too large or small.

    Returns:
        The mean of the true divergence over the second half; the budget.
    """
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(20, requires_grad=True)
    target = torch.randn(20, generator=generator)
    curvature = torch.rand(20, generator=generator)
    budget, step = AnswerBudget(limit, start), optimizer([theta])
    found = []
    for _ in range(steps):
        divergence = 0.5 * (curvature * theta.square()).sum()
        found.append(float(divergence.detach()))
        seen = divergence * (noise * torch.randn((), generator=generator) - noise**2 / 2).exp()  # of mean 1
        (0.5 * (theta - target).square().sum() + budget.weight * seen).backward()
        step.step()
        step.zero_grad()
        budget.observe(seen)
    return sum(found[steps // 2 :]) / (steps - steps // 2), budget


OPTIMIZERS = {"sgd": lambda p: torch.optim.SGD(p, lr=0.02), "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0)}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("start", [0.5, 20.0])
@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_the_divergence_is_held_at_the_limit(kind, start, limit):
    """It is above 3 at the lowest weight of all (the next test); a step's estimate is off by a factor of e."""
    assert held(limit, start, OPTIMIZERS[kind])[0] == pytest.approx(limit, rel=0.2)


def test_nothing_near_the_limit_lets_go():
    """Far below it the weight falls, to a hundredth and no further."""
    divergence, budget = held(1e9, 3.0, OPTIMIZERS["adamw"])
    assert divergence > 3
    assert float(budget.weight) == pytest.approx(0.03)


def test_what_cannot_be_held_does_not_run_away():
    budget = AnswerBudget(1e-3, 3.0)
    for _ in range(200):
        budget.observe(torch.tensor(5.0))
    assert float(budget.weight) == pytest.approx(300.0)
    for _ in range(400):
        budget.observe(torch.tensor(0.0))
    assert float(budget.weight) == pytest.approx(0.03)


def test_it_starts_at_the_weight_given_and_follows_the_formula():
    """By hand: running mean 0.1·1, distance log(0.1/0.05), then 0.05 and half of it."""
    budget = AnswerBudget(0.05, 3.0)
    assert float(budget.weight) == 3.0
    budget.observe(torch.tensor(1.0))
    assert float(budget.weight) == pytest.approx(3.0 * 2.0**0.55)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), float("-inf")])
def test_a_spoilt_value_is_passed_over(spoilt):
    budget = AnswerBudget(0.05, 3.0)
    budget.observe(torch.tensor(0.2))
    before = {name: value.clone() for name, value in budget.state_dict().items()}
    budget.observe(torch.tensor(spoilt))
    assert budget.state_dict() == before
    budget.observe(torch.tensor(0.2))
    assert budget.weight.isfinite() and budget.state_dict() != before


def test_its_state_goes_on_elsewhere_and_keeps_its_precision():
    budget, other = AnswerBudget(0.05, 3.0), AnswerBudget(0.05, 3.0).to(torch.bfloat16)
    for value in (0.2, 0.01, 0.3):
        budget.observe(torch.tensor(value, dtype=torch.bfloat16))
    other.load_state_dict(budget.state_dict())
    for one in (budget, other):
        one.observe(torch.tensor(0.07))
    assert other.state_dict() == budget.state_dict()
    assert {value.dtype for value in other.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", -3.0), ("weight", 0.0), ("weight", 1e4), ("weight", float("nan")), ("strength", -50.0), ("mean", -1.0)],
)
def test_a_state_that_no_run_comes_to_is_refused(name, value):
    """A weight below 0 would train the model away from its answers."""
    budget = AnswerBudget(0.1, 2.0)
    with pytest.raises(ConfigurationError, match=r"must have a weight within 0\.02 and 200 and a mean of 0 or more"):
        budget.load_state_dict(budget.state_dict() | {name: torch.tensor(value)})


def test_a_divergence_that_rounding_takes_below_0_is_none():
    """At the first steps the models differ by rounding alone."""
    budgets = [AnswerBudget(0.1, 3.0) for _ in range(2)]
    for budget, first in zip(budgets, (-2.6e-8, 0.0), strict=True):
        for divergence in (first, first, 0.2):
            budget.observe(torch.tensor(divergence))
    torch.testing.assert_close(budgets[0].state_dict(), budgets[1].state_dict(), rtol=0, atol=0)
    assert float(budgets[0].weight) > 0
