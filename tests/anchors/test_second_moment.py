"""SecondMoment against the mean of outer products, dense and in float64, and its bound by eigenvalues."""

import pytest
import torch
from kit.references import orthonormal, randn, relative_error

from asft_lightning.anchors.second_moment import SecondMoment

ROUNDING = 1e-6
"""Of a float32 factor, as a share of tr G."""


def inputs(count, width, decay=0.8, seed=0):
    """x (count, width) whose energy falls off from direction to direction, in no particular basis."""
    scales = decay ** torch.arange(width, dtype=torch.float64)
    return (randn(count, width, seed=seed).double() * scales @ orthonormal(width, width, seed=seed + 1).mT).float()


def streamed(x, capacity, *sizes):
    """The moment of x, given in parts of these sizes and then the rest."""
    found = SecondMoment(x.shape[1], capacity)
    for part in torch.split(x, [*sizes, len(x) - sum(sizes)]):
        found.add(part)
    return found


def mean_outer(x):
    return x.double().mT @ x.double() / len(x)


def dense(found):
    return found.directions @ (found.values[:, None] * found.directions.mT)


@pytest.mark.parametrize(
    "sizes", [(), (1,) * 50, (0, 1, 0), (17, 16, 15), (90,)], ids=["one", "each", "empty", "some", "two"]
)
@pytest.mark.parametrize("capacity", [6, 7, 64])
def test_narrow_inputs_lose_nothing_however_they_are_split(capacity, sizes):
    x = inputs(100, 6)
    found = streamed(x, capacity, *sizes).principal(0.0)
    assert relative_error(dense(found), mean_outer(x)) < ROUNDING
    assert found.bound == 0.0
    assert found.trace == pytest.approx(float(mean_outer(x).trace()), rel=ROUNDING)


def test_without_tolerance_every_direction_is_kept():
    """Also the last few, which rounding of the sum of the others would hide."""
    for seed in range(20):
        x = inputs(60, 40, seed=seed)
        found = streamed(x, 64).principal(0.0)
        assert (len(found.values), found.bound) == (40, 0.0)


@pytest.mark.parametrize("rank", [1, 5])
def test_inputs_of_few_directions_lose_nothing(rank):
    x = (randn(300, rank).double() @ orthonormal(40, rank).mT).float()
    found = streamed(x, 8).principal(0.0)
    assert relative_error(dense(found), mean_outer(x)) < ROUNDING
    assert found.bound <= ROUNDING**2 * found.trace


@pytest.mark.parametrize(
    ("sizes", "tolerance"), [((), 0.0), ((1,) * 200, 0.01), ((3, 50, 1, 100), 0.3)], ids=["one", "each", "some"]
)
@pytest.mark.parametrize(("capacity", "decay"), [(1, 0.8), (8, 0.8), (8, 1.0), (20, 0.8)])
def test_what_is_dropped_is_within_the_bound(capacity, decay, sizes, tolerance):
    x = inputs(400, 24, decay)
    found = streamed(x, capacity, *sizes).principal(tolerance)
    missing = torch.linalg.eigvalsh(mean_outer(x) - dense(found))
    rounding = ROUNDING * found.trace
    assert len(found.values) <= capacity
    assert -rounding < float(missing[0])
    assert rounding < float(missing[-1]) <= found.bound + rounding
    assert found.bound < found.trace


def test_without_dropping_on_the_way_the_bound_is_what_is_missing():
    x = inputs(400, 24)
    found = streamed(x, 24).principal(0.05)
    missing = torch.linalg.eigvalsh(mean_outer(x) - dense(found))
    assert found.bound == pytest.approx(float(missing[-1]), rel=1e-4)


@pytest.mark.parametrize(
    ("tolerance", "kept"), [(0.0, 5), (0.01, 5), (0.03, 4), (0.06, 3), (0.1, 2), (0.24, 2), (0.26, 1), (0.999, 1)]
)
def test_the_fewest_directions_that_keep_the_tolerance(tolerance, kept):
    """tr G = 20, of which 15, 3.1, 0.8, 0.7 and 0.4 lie along the directions."""
    u = orthonormal(12, 5)
    x = (torch.tensor([15.0, 3.1, 0.8, 0.7, 0.4]).double() * 5).sqrt()[:, None] * u.mT
    found = streamed(x.float(), 8).principal(tolerance)
    assert len(found.values) == kept
    torch.testing.assert_close(found.values, torch.tensor([15.0, 3.1, 0.8, 0.7, 0.4]).double()[:kept], rtol=1e-5, atol=0)
    torch.testing.assert_close((u.mT @ found.directions).abs(), torch.eye(5, kept).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_tolerance_is_kept_where_the_capacity_allows(tolerance):
    x = inputs(400, 24)
    found = streamed(x, 20, 100, 100).principal(tolerance)
    assert float((mean_outer(x) - dense(found)).trace()) <= tolerance * found.trace
    fewer = found._replace(directions=found.directions[:, :-1], values=found.values[:-1])
    assert float((mean_outer(x) - dense(fewer)).trace()) > tolerance * found.trace


def test_trace_counts_what_was_dropped():
    x = inputs(400, 24, decay=1.0)
    found = streamed(x, 4, 100)
    assert found.principal(0.0).trace == pytest.approx(float(x.double().square().sum()) / 400, rel=1e-6)
    assert found.count == 400


def test_directions_are_orthonormal_and_in_order():
    found = streamed(inputs(400, 24), 10).principal(0.0)
    identity = torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(found.directions.mT @ found.directions, identity, rtol=0, atol=1e-10)
    assert found.directions.dtype == torch.float64
    assert found.values.tolist() == sorted(found.values.tolist(), reverse=True)


def test_whole_multiples_of_the_capacity_are_the_same_as_one_batch():
    x = inputs(400, 24)
    one, many = streamed(x, 8).principal(0.01), streamed(x, 8, *(16,) * 20).principal(0.01)
    assert torch.equal(dense(one), dense(many))
    assert one.bound == many.bound


def test_asking_twice_is_the_same():
    moment = streamed(inputs(400, 24), 8)
    first, again = moment.principal(0.0), moment.principal(0.0)
    torch.testing.assert_close(dense(first), dense(again), rtol=0, atol=ROUNDING * first.trace)
    assert again.bound == pytest.approx(first.bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_inputs_of_any_type(dtype):
    x = inputs(50, 6).to(dtype)
    assert relative_error(dense(streamed(x, 8).principal(0.0)), mean_outer(x)) < ROUNDING


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_size_of_the_inputs_does_not_matter(scale):
    x = inputs(400, 24)
    small, large = streamed(x, 8).principal(0.01), streamed(x * scale, 8).principal(0.01)
    assert relative_error(dense(large) / scale**2, dense(small)) < 1e-4
    assert large.bound / scale**2 == pytest.approx(small.bound, rel=1e-4)


def test_gradients_do_not_reach_the_inputs():
    x = inputs(50, 6).requires_grad_()
    assert not streamed(x, 4).principal(0.0).directions.requires_grad


def test_inputs_that_are_all_zero_have_no_direction():
    found = streamed(torch.zeros(30, 6), 4).principal(0.01)
    assert (found.directions.shape, len(found.values), found.trace, found.bound) == ((6, 0), 0, 0.0, 0.0)
