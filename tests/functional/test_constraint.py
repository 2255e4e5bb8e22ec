"""The weights of tokens, against the gradient of the objective that they stand for, and by hand."""

import math

import pytest
import torch
from kit.references import randn
from torch.nn.functional import cross_entropy, logsigmoid

from asft_lightning.functional import answer_places, constraint_weights

BETAS = [0.5, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1]


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_weighted_loss_has_the_objectives_gradient(scale):
    """Autograd of −Σ (2/β_t) log σ(β_t log π/π_ref) in float64, row by row and token by token."""
    logits = (scale * randn(2, 7, 11, dtype=torch.float64)).requires_grad_()
    frozen, labels = scale * randn(2, 7, 11, seed=1, dtype=torch.float64), randn(2, 7, seed=2).argsort(1)
    objective = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        for t, beta in enumerate(BETAS):
            gained = logits[row, t].log_softmax(0)[labels[row, t]] - frozen[row, t].log_softmax(0)[labels[row, t]]
            objective = objective - 2 / beta * logsigmoid(beta * gained)
    (expected,) = torch.autograd.grad(objective, logits)

    losses, reference = (cross_entropy(x.mT, labels, reduction="none") for x in (logits, frozen))
    places = torch.arange(1, 8).expand(2, 7)
    weights = constraint_weights(losses, reference, places, (0.5, 2.0, 2.0, 2.0, 2.0), 0.1, least=0.0)
    (found,) = torch.autograd.grad((weights * losses).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert weights.std() > 0.05


def test_weights_by_hand():
    """Unchanged 1; e^βΔ = 3 gives 2/4, e^βΔ = 1/3 gives 2·3/4; a gain of 40 at β 2 would give 4e-35, and gives the least."""
    log3 = math.log(3)
    gained = torch.tensor([[0.0, log3, -log3, 40.0], [log3 / 0.5, log3 / 2, log3 / 2, 10 * log3]], dtype=torch.float64)
    places = torch.tensor([[1, 9, 9, 2], [1, 2, 3, 4]])
    reference = torch.full_like(gained, 50.0)
    weights = constraint_weights(reference - gained, reference, places, (0.5, 2.0, 2.0), 0.1, least=1e-3)
    of_a_tenth = 2 / (1 + 3**0.1), 2 / (1 + 3**-0.1)
    expected = torch.tensor([[1.0, *of_a_tenth, 1e-3], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)


def test_answers_are_counted_each_for_itself():
    learnt = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]).bool()
    expected = [[0, 1, 2, 3, 0, 0, 1, 2], [1, 2, 0, 1, 0, 0, 0, 0], [0] * 8]
    assert answer_places(learnt).tolist() == expected
