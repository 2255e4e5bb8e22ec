"""Names beside points: none lies on another, however many points are in one place."""

from itertools import combinations

import pytest
from matplotlib.text import Annotation, Text

from asft_lightning.comparison.labels import places
from asft_lightning.comparison.pictures import pareto_figure
from asft_lightning.comparison.results import cells


def boxes(axis):
    """{name: where it stands, in pixels}."""
    return {t.get_text(): Text.get_window_extent(t) for t in axis.texts if isinstance(t, Annotation)}


def require_apart(figure):
    for axis in figure.axes:
        found = boxes(axis)
        assert not any(one.overlaps(other) for one, other in combinations(found.values(), 2))
        assert all(box.x0 > axis.get_window_extent().x1 for box in found.values())  # nor on a point
        assert all(axis.get_window_extent().y0 - box.height < box.y0 for box in found.values())


@pytest.mark.parametrize("count", [1, 11, 24])
@pytest.mark.parametrize("ratios", [[0.1], [0, 0.1, 0.2]])
def test_methods_in_two_corners(result, count, ratios):
    corners = [(0.0, 100.0), (100.0, 100.0)]
    runs = [result(f"method number {i}", *corners[i % 2], seed, p) for i in range(count) for p in ratios for seed in (0, 1)]
    figure = pareto_figure(cells(runs), "HS against FA")
    assert [len(boxes(axis)) for axis in figure.axes if axis.get_visible()] == [count] * len(ratios)
    require_apart(figure)


def test_more_points_than_a_panel_can_name_are_a_panel_a_method(result):
    """Of that ratio alone; points of one line have the value that tells them."""
    runs = [result(m, 50.0, 90.0, 0, 0.1, **{"lambda": float(i)}) for m in ("asft", "gram") for i in range(20)]
    runs += [result(m, 50.0, 90.0, 0, 0, **{"lambda": 1.0}) for m in ("asft", "gram")]
    figure = pareto_figure(cells(runs), "HS against FA")
    panels = {axis.get_title(): boxes(axis) for axis in figure.axes if axis.get_visible()}
    assert panels.keys() == {"p = 0", "asft, p = 0.1", "gram, p = 0.1"}
    assert set(panels["p = 0"]) == {"asft", "gram"}
    assert {"lambda 0", "lambda 19"} <= panels["asft, p = 0.1"].keys()
    require_apart(figure)


@pytest.mark.parametrize(
    ("wished", "expected"),
    [([], []), ([0.5], [0.5]), ([0.9, 0.2], [0.9, 0.2]), ([0.5, 0.5, 0.5], [0.5, 0.4, 0.3]), ([0.0, 0.0], [0.1, 0.0])],
)
def test_places(wished, expected):
    assert places(wished, 0.1) == pytest.approx(expected)
