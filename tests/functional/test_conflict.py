"""Two gradients of one step: against the plain formula in float64, and cases worked by hand."""

import pytest
import torch

from asft_lightning.functional import without_conflict


def reference(task, protection):
    """SafeGrad's, written out."""
    inner = sum(float(a) * float(b) for a, b in zip(task, protection, strict=True))
    square = sum(float(b) ** 2 for b in protection)
    share = inner / square if inner < 0 else 0.0
    return torch.tensor([float(a) - share * float(b) + float(b) for a, b in zip(task, protection, strict=True)]).double()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_it_is_the_formula(sign, scale):
    generator = torch.Generator().manual_seed(2)
    task, noise = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
    protection = scale * (sign * task + 2 * noise)
    found, cosine = without_conflict(task, protection)
    torch.testing.assert_close(found, reference(task, protection), rtol=1e-6, atol=1e-7)
    assert float(cosine) == pytest.approx(float(task @ protection / task.norm() / protection.norm()))
    assert (float(cosine) < 0) == (sign < 0)
    found32, _ = without_conflict(task.float(), protection.float())
    torch.testing.assert_close(found32.double(), found, rtol=1e-4, atol=1e-5)


def test_what_is_left_of_the_task_does_not_touch_what_protects():
    """By hand: (1, 1) has no part left along (−2, 0) but that of the other, and all of what is across."""
    found, cosine = without_conflict(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0]))
    assert found.tolist() == [-2.0, 1.0]
    assert float(cosine) == pytest.approx(-(0.5**0.5))
    found, cosine = without_conflict(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0]))
    assert found.tolist() == [1.0, 4.0]
    assert float(cosine) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-7])
def test_roundings_have_no_direction(length):
    """Where nothing has changed yet the gradient of what protects is of this size and points anywhere."""
    task, protection = torch.tensor([1.0, 1.0]), torch.tensor([-length, 0.0])
    found, cosine = without_conflict(task, protection)
    assert torch.equal(found, task + protection) and float(cosine) == 0.0


def test_a_task_without_a_gradient_is_no_conflict():
    found, cosine = without_conflict(torch.zeros(2), torch.tensor([1.0, 2.0]))
    assert found.tolist() == [1.0, 2.0] and float(cosine) == 0.0


def test_what_is_no_number_stays_visible():
    """A scaler must see that a gradient has overflowed."""
    for task, protection in (([1.0, float("inf")], [1.0, 1.0]), ([1.0, 1.0], [float("inf"), 1.0]), ([1.0], [float("nan")])):
        found, _ = without_conflict(torch.tensor(task), torch.tensor(protection))
        assert not found.isfinite().all()


def test_shards_know_of_each_other():
    generator = torch.Generator().manual_seed(3)
    task, noise = (torch.randn(10, generator=generator) for _ in range(2))
    protection = noise - task
    expected, cosine = without_conflict(task, protection)
    parts, sums = [slice(0, 3), slice(3, 10)], []
    for part in parts:  # first what each would send to the others
        without_conflict(task[part], protection[part], lambda products: sums.append(products) or products)
    for part in parts:
        found, same = without_conflict(task[part], protection[part], lambda _: sums[0] + sums[1])
        torch.testing.assert_close(found, expected[part])
        assert float(same) == pytest.approx(float(cosine))
