"""Figures of merit of curves that are known by hand."""

import math

import pytest
import torch

from asft_lightning.functional import basin, effective_size, expected_cosine, visage


def test_basin_of_an_interval_that_is_known():
    """S = 40·|α − 0.5|: safe up to 10 % where |α − 0.5| ≤ 0.25, and so nowhere near 0; S = 40·|α|: where |α| ≤ 0.25."""
    positions = [step / 2 for step in range(-4, 5)]
    around = basin(positions, [40 * abs(alpha) for alpha in positions], 10)
    assert (around.low, around.high, around.width, around.epl, around.is_closed) == (-0.25, 0.25, 0.5, 0.25, True)
    beside = basin(positions, [40 * abs(alpha - 0.5) for alpha in positions], 10)
    assert math.isnan(beside.low) and beside.width == 0 and beside.epl == 0.75


def test_basin_that_the_line_does_not_leave_is_a_lower_bound():
    found = basin([-1, 0, 1], [0, 10, 100], 10)
    assert (found.low, found.width, found.epl, found.is_closed) == (-1, 1, 1, False)


def test_what_is_safe_beyond_a_gap_counts_for_the_epl_alone():
    found = basin([-2, -1, 0, 1, 2], [100, 100, 0, 100, 5], 10)
    assert found.high == 0.1 and found.epl == 2 and not found.is_closed


def test_nowhere_safe():
    found = basin([-1, 0, 1], [100, 50, 100], 10)
    assert math.isnan(found.epl) and found.width == 0


@pytest.mark.parametrize("positions", [[-1, 1, 0], [-1, 1, 2], [0, 1]])
def test_positions_must_be_a_line(positions):
    with pytest.raises(ValueError, match="must ascend, with 0 among them"):
        basin(positions, [0, 0, 0], 10)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([100, 100, 0, 0, 0, 100, 100], 100.0),  # from the first point that is not wholly unsafe, on each side
        ([100, 40, 0, 0, 0, 100, 100], (60 + 300) / 4),
        ([50, 40, 0, 0, 0, 40, 50], (100 + 120 + 300) / 7),  # nowhere wholly unsafe: the whole line
        ([100] * 7, 0.0),
        ([100, 100, 100, 0, 100, 100, 100], 100 / 7),  # only in the middle, where neither side looks
        ([50, 100, 20, 0, 20, 100, 50], (80 + 100 + 80) / 3),  # the first such step from the end inwards
    ],
)
def test_visage_as_llm_landscape_takes_the_mean(scores, expected):
    assert visage(scores) == pytest.approx(expected)


def test_expected_cosine_is_that_of_drawn_directions():
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.randn(4000, size, generator=generator) for size in (20, 200))
    drawn = torch.cat([small / small.norm(dim=1, keepdim=True), 3 * large / large.norm(dim=1, keepdim=True)], dim=1)
    one, other = drawn[:2000], drawn[2000:]
    measured = float((one * other).sum(1).abs().mean()) / 10
    size = effective_size({"small": 20, "large": 200}, {"small": 1.0, "large": 9.0})
    assert measured == pytest.approx(expected_cosine(size), rel=0.05)
