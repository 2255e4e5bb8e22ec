"""The statistics of two methods, against scipy, statsmodels and scikit-learn."""

import math

import pytest
from scipy.stats import binomtest, t
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import DescrStatsW

from asft_lightning.comparison.agreement import cohens_kappa
from asft_lightning.comparison.statistics import mean_interval, sign_test, t_quantile


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (0, 1), (5, 5), (1, 7), (12, 3), (0, 64), (250, 200)])
def test_sign_test(more, fewer):
    expected = binomtest(more, more + fewer).pvalue if more + fewer else 1.0
    assert sign_test(more, fewer) == pytest.approx(expected, rel=1e-12)
    assert sign_test(more, fewer) == pytest.approx(mcnemar([[9, more], [fewer, 4]], exact=True).pvalue, rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 29, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_t_quantile(confidence, freedom):
    assert t_quantile(confidence, freedom) == pytest.approx(t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0, 0.0, 0.0], [-3.0, 1.5, 4.0, 8.0]])
def test_mean_interval(values):
    found = mean_interval(values)
    low, high = DescrStatsW(values).tconfint_mean()
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0]),
        ([1, 0, 1, 0], [0, 1, 0, 1]),
        ([1, 1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0]),
        ([1, 1, 1], [1, 0, 1]),
    ],
)
def test_kappa(first, second):
    found = cohens_kappa([bool(v) for v in first], [bool(v) for v in second])
    assert found == pytest.approx(cohen_kappa_score(first, second))


def test_kappa_of_judges_who_say_one_thing_alone():
    """Chance alone agrees as well: there is nothing to tell."""
    assert math.isnan(cohens_kappa([True, True], [True, True]))
