"""The five contrastive losses against loops over pairs in float64, and against cases worked by hand."""

import math

import pytest
import torch
from kit.references import randn

from asft_lightning.functional import (
    intra_label_contrastive,
    jaccard_contrastive,
    stepwise_contrastive,
    strict_contrastive,
)

ROWS, LABELS, WIDTH = 9, 4, 6


def looped(z, positive, temperature, weight=lambda i, k: 1.0, alone=0.0):
    """mean_i −(T/0.07)·mean over positives j of (s_ij − log Σ_{k≠i} w_ik e^{s_ik}), pair by pair."""
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positives, total = [j for j in others if positive(i, j)], sum(weight(i, k) for k in others)
        if not positives or not total:
            losses.append(torch.as_tensor(alone, dtype=z.dtype))
            continue
        denominator = sum(weight(i, k) * torch.exp(z[i] @ z[k] / temperature) for k in others)
        terms = [z[i] @ z[j] / temperature - torch.log(denominator) for j in positives]
        losses.append(-temperature / 0.07 * sum(terms) / len(terms))
    return sum(losses) / len(losses)


def naive_strict(z, y, temperature, alone=0.0):
    return looped(z, lambda i, j: y[i].equal(y[j]), temperature, alone=alone)


def naive_intra_label(z, y, temperature, alone=0.0):
    texts = [looped(e, lambda i, j, v=v: v[i] == v[j], temperature, alone=alone) for e, v in zip(z, y, strict=True)]
    return sum(texts) / len(texts)


def naive_jaccard(z, y, temperature):
    def overlap(i, k):
        union = int((y[i] | y[k]).sum())
        return int((y[i] & y[k]).sum()) / union if union else 0.0

    return looped(z, lambda i, j: True, temperature, overlap)


def naive_stepwise(z, y, temperature, alone=0.0):
    labels = [looped(z, lambda i, j, v=v: v[i] == v[j], temperature, alone=alone) for v in y.T]
    return sum(labels) / len(labels)


LOSSES = {
    "SCL": (strict_contrastive, naive_strict, (ROWS, WIDTH)),
    "ICL": (intra_label_contrastive, naive_intra_label, (ROWS, LABELS, WIDTH)),
    "JSCL": (jaccard_contrastive, naive_jaccard, (ROWS, WIDTH)),
    "SLCL": (stepwise_contrastive, naive_stepwise, (ROWS, WIDTH)),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def labels(seed=0):
    """Rows with equal labels, a row with a label of its own, and one that has none."""
    y = (randn(ROWS, LABELS, seed=seed) > 0.3).long()
    y[:, -1], y[1], y[2] = 0, y[0], torch.tensor([0, 0, 0, 1])
    y[3] = 0
    return y


def value_and_gradient(loss, z, *arguments):
    z = z.clone().requires_grad_()
    value = loss(z, *arguments)
    return value.detach(), torch.autograd.grad(value, z)[0]


@every_loss
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_value_and_gradient_of_the_loop(name, temperature):
    loss, naive, shape = LOSSES[name]
    z, y = randn(*shape, seed=1), labels()
    value, gradient = value_and_gradient(loss, z, y, temperature)
    expected = value_and_gradient(naive, z.double(), y, temperature)

    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close((value.double(), gradient.double()), expected, rtol=1e-6, atol=1e-6)


@every_loss
def test_gradient_by_differences(name):
    loss, _, shape = LOSSES[name]
    z, y = randn(*shape, dtype=torch.float64).requires_grad_(), labels(3)
    assert torch.autograd.gradcheck(lambda z: loss(z, y, 0.7), z)


@every_loss
def test_order_of_rows_is_of_no_account(name):
    loss, _, shape = LOSSES[name]
    z, y, order = randn(*shape), labels(), torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(z[order], y[order]), loss(z, y))


@every_loss
def test_order_of_labels_is_of_no_account(name):
    loss, _, shape = LOSSES[name]
    z, y, order = randn(*shape), labels(), torch.tensor([2, 0, 3, 1])
    permuted = z[:, order] if name == "ICL" else z
    torch.testing.assert_close(loss(permuted, y[:, order]), loss(z, y))


@every_loss
@pytest.mark.parametrize("y", [torch.zeros(1, 4), torch.tensor([[1.0, 0, 1, 0]])])
def test_batch_of_one(name, y):
    loss, naive, shape = LOSSES[name]
    z = randn(1, *shape[1:], seed=2)
    value, gradient = value_and_gradient(loss, z, y)
    expected = value_and_gradient(naive, z.double(), y.long(), 1.0) if name == "ICL" else (0.0, torch.zeros_like(z))
    torch.testing.assert_close(value.double(), torch.as_tensor(expected[0]).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected[1].double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [strict_contrastive, jaccard_contrastive])
def test_rows_without_positives_add_nothing(loss):
    value, gradient = value_and_gradient(loss, randn(4, 3), torch.eye(4))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", ["SCL", "ICL", "SLCL"])
def test_authors_constant(name):
    loss, naive, shape = LOSSES[name]
    z, y = randn(*shape), labels()
    expected = naive(z.double(), y, 0.5, alone=-0.5 / 0.07)
    torch.testing.assert_close(loss(z, y, 0.5, authors_constant=True).double(), expected, rtol=1e-6, atol=1e-6)
    assert loss(z, y, 0.5) != loss(z, y, 0.5, authors_constant=True)


def test_hand_cases():
    """Orthogonal unit rows: every s is 0, so a denominator of k terms of weight w is log(k·w)."""
    z, y = torch.eye(3), torch.tensor([[1, 1], [1, 1], [1, 0]])
    two = math.log(2) / 0.07
    torch.testing.assert_close(strict_contrastive(z, y), torch.tensor(2 / 3 * two))
    # Weights 1, 1/2 of rows 0 and 1; 1/2, 1/2 of row 2.
    torch.testing.assert_close(jaccard_contrastive(z, y), torch.tensor(2 / 3 * math.log(1.5) / 0.07))
    # Label 0: three positives of each other. Label 1: rows 0 and 1.
    torch.testing.assert_close(stepwise_contrastive(z, y), torch.tensor((two + 2 / 3 * two) / 2))
    torch.testing.assert_close(intra_label_contrastive(z[None], torch.tensor([[1, 1, 0]])), torch.tensor(2 / 3 * two))


@every_loss
def test_large_embeddings_with_much_in_common(name):
    """Hidden states of a language model are such: e^s overflows float32, and s − log Σ e^s cancels."""
    loss, naive, shape = LOSSES[name]
    z, y = randn(*shape, seed=5) + 300 * randn(WIDTH, seed=6), labels()
    value, gradient = value_and_gradient(loss, z, y, 2000.0)
    expected = value_and_gradient(naive, z.double(), y, 2000.0)
    torch.testing.assert_close((value.double(), gradient.double()), expected, rtol=1e-5, atol=1e-2)


@every_loss
def test_autocast_changes_nothing(name):
    loss, _, shape = LOSSES[name]
    z, y = randn(*shape, seed=4).bfloat16(), labels().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(loss, z, y)
    assert value.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    assert value == loss(z.float(), y.float())
