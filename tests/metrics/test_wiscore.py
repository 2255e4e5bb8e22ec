"""WiScore: published rows, cases worked by hand, what is absent; and the benchmark's own files where they are at hand."""

import math

import pytest
import torch
from kit.references import randn

from asft_lightning import ConfigurationError
from asft_lightning.errors import DataError
from asft_lightning.metrics import WISE_VERSIONS, WiScore, wilson_interval, wiscore, wise_overall

LEGACY, VERIFIED = WISE_VERSIONS["legacy"], WISE_VERSIONS["verified"]
FIELDS = ["culture", "time", "space", "biology", "physics", "chemistry"]


@pytest.mark.parametrize(("version", "means", "printed"), [
    ("legacy", [0.48, 0.58, 0.62, 0.42, 0.51, 0.35], "0.50"),  # FLUX.1-dev
    ("legacy", [0.81, 0.71, 0.89, 0.83, 0.79, 0.74], "0.80"),  # GPT4o
    ("legacy", [0.30, 0.37, 0.49, 0.36, 0.42, 0.26], "0.35"),  # Janus-Pro-7B
    ("verified", [0.5225, 0.4000, 0.5333, 0.1750, 0.3750, 0.2417], "0.4160"),  # FLUX.1-dev
    ("verified", [0.8975, 0.8167, 0.9333, 0.8167, 0.8667, 0.8750], "0.8760"),  # NanoBanana-Pro
])  # fmt: skip
def test_published_rows(version, means, printed):
    overall = wise_overall(dict(zip(FIELDS, means, strict=True)), WISE_VERSIONS[version])
    assert f"{overall:.{len(printed) - 2}f}" == printed


def test_fields():
    """Ids, and weights 0.4, 0.167, 0.133, 0.1 × 3; 0.4 and 0.12 × 5."""
    spans = {name: [(ids[0], ids[-1], len(ids)) for ids in WISE_VERSIONS[name].groups.values()] for name in WISE_VERSIONS}
    assert list(LEGACY.groups) == list(VERIFIED.groups) == FIELDS
    assert spans["legacy"] == [
        (1, 400, 400), (401, 567, 167), (568, 700, 133), (701, 800, 100), (801, 900, 100), (901, 1000, 100)
    ]  # fmt: skip
    assert spans["verified"] == [
        (1, 400, 400), (401, 520, 120), (521, 640, 120), (641, 760, 120), (761, 880, 120), (881, 1000, 120)
    ]  # fmt: skip


@pytest.mark.parametrize(("ratings", "version", "score"), [
    ([0, 0, 0], LEGACY, 0.0),
    ([1, 0, 0], LEGACY, 0.35),
    ([0, 1, 0], LEGACY, 0.1),
    ([0, 0, 1], LEGACY, 0.05),
    ([2, 2, 2], LEGACY, 1.0),
    ([1], VERIFIED, 1.0),
    ([0], VERIFIED, 0.0),
])  # fmt: skip
def test_score_of_one_image(ratings, version, score):
    assert wiscore(torch.tensor([ratings]), version).tolist() == [pytest.approx(score, abs=1e-15)]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", WISE_VERSIONS)
def test_all_ids_in_batches(name):
    """The overall is the plain mean of all images, since a field counts by its number of prompts."""
    version, metric = WISE_VERSIONS[name], WiScore(name)
    ratings = (randn(1000, len(version.axes)).abs() * 1.5).round().clamp(max=version.highest)
    for places in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).split(300):
        assert math.isnan(metric.compute())
        metric.update(ratings[places], places + 1)
    scores = wiscore(ratings, version)

    assert float(metric.compute()) == pytest.approx(float(scores.mean()))
    assert metric.compute().dtype == torch.float32
    for field, ids in version.groups.items():
        found = metric.by_field()[field]
        assert found.mean == pytest.approx(float(scores[ids[0] - 1 : ids[-1]].mean()))
        assert (found.rated, found.total) == (len(ids), len(ids))
        assert 0 <= found.low < found.mean < found.high <= 1


def test_missing_ids_give_figures_and_counts_but_no_overall():
    metric = WiScore("verified")
    metric.update(torch.ones(999, 1), torch.arange(2, 1001))
    fields = metric.by_field()

    assert math.isnan(metric.compute())
    assert (fields["culture"].mean, fields["culture"].rated, fields["culture"].total) == (1.0, 399, 400)
    metric.update(torch.zeros(1, 1), torch.tensor([1]))
    assert float(metric.compute()) == pytest.approx(0.999)
    empty = WiScore("legacy").by_field()["space"]
    assert (empty.rated, empty.total) == (0, 133) and all(map(math.isnan, empty[:3]))


def test_an_id_counts_once():
    metric = WiScore("verified")
    metric.update(torch.tensor([[1], [0], [0]]), torch.tensor([5, 5, 6]))
    culture = metric.by_field()["culture"]
    assert (culture.mean, culture.rated) == (0.25, 2)


def test_groups_of_ones_own_with_intervals():
    metric = WiScore("verified", confidence=0.9)
    metric.update(torch.tensor([[1], [1], [0], [1]]), torch.tensor([1, 2, 3, 9]))
    found = metric.by_group({"animals": [1, 2, 3, 4], "plants": {9}, "none": []})

    assert found["animals"][::3] == (pytest.approx(2 / 3), 3)
    assert [100 * end for end in found["animals"][1:3]] == pytest.approx(wilson_interval(2, 3, 0.9))
    assert (found["plants"].mean, found["plants"].rated, found["plants"].total) == (1.0, 1, 1)
    assert math.isnan(found["none"].mean)


@pytest.mark.parametrize(("ratings", "ids", "message"), [
    ([[3, 0, 0]], [1], r"whole number from 0 to 2, got \[3.0\]. Leave out"),
    ([[1.5, 0, 0]], [1], r"whole number from 0 to 2, got \[1.5\]"),
    ([[math.nan, 0, 0]], [1], r"whole number from 0 to 2, got \[nan\]"),
    ([[1, 0]], [1], r"for consistency, realism, aesthetics, got shape \(1, 2\)"),
    ([[1, 0, 0]], [0], r"1 to 1000, got \[0\] for 1"),
    ([[1, 0, 0]], [1001], r"1 to 1000, got \[1001\]"),
    ([[1, 0, 0]], [1, 2], r"1 to 1000, got \[1, 2\] for 1"),
])  # fmt: skip
def test_what_is_no_rating(ratings, ids, message):
    with pytest.raises(DataError, match=message):
        WiScore().update(torch.tensor(ratings), torch.tensor(ids))


def test_unknown_version_and_field():
    with pytest.raises(ConfigurationError, match="version must be one of legacy, verified, got 'v2'"):
        WiScore("v2")
    with pytest.raises(DataError, match="needs the mean of every field, got none of space, chemistry"):
        wise_overall(dict.fromkeys(set(FIELDS) - {"space", "chemistry"}, 0.5), LEGACY)
