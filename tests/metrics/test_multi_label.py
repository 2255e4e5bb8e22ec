"""Scores of several labels a row against scikit-learn, and thresholds against a search over all of them."""

import pytest
import torch
from kit.references import randn
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score

from asft_lightning import ConfigurationError
from asft_lightning.metrics import MultiLabelScores, best_thresholds, multi_label_scores, row_jaccard

NAMES = ["a", "b", "c"]
PROBABILITIES = randn(60, 3).sigmoid().round(decimals=1)  # many are equal
LABELS = ((PROBABILITIES + 0.5 * randn(60, 3, seed=1)) > torch.tensor([0.5, 0.7, 0.9])).long()


def f1_at(threshold, label):
    return f1_score(LABELS[:, label], PROBABILITIES[:, label] > threshold, zero_division=0)


def test_scores_are_scikit_learns():
    thresholds = torch.tensor([0.3, 0.5, 0.7])
    metric, found = MultiLabelScores(NAMES), (thresholds < PROBABILITIES).long()
    for part in range(0, 60, 25):
        metric.update(PROBABILITIES[part : part + 25], LABELS[part : part + 25])
    scores = {name: float(value) for name, value in metric.compute(thresholds).items()}

    assert scores["macro_f1"] == pytest.approx(f1_score(LABELS, found, average="macro"))
    assert scores["micro_f1"] == pytest.approx(f1_score(LABELS, found, average="micro"))
    assert scores["jaccard"] == pytest.approx(jaccard_score(LABELS, found, average="samples", zero_division=1))
    for i, name in enumerate(NAMES):
        assert scores[f"auroc/{name}"] == pytest.approx(roc_auc_score(LABELS[:, i], PROBABILITIES[:, i]))
    assert float(metric.compute()["micro_f1"]) == pytest.approx(f1_score(LABELS, PROBABILITIES > 0.5, average="micro"))


def test_no_threshold_is_better():
    chosen = best_thresholds(PROBABILITIES, LABELS).tolist()
    for label, threshold in enumerate(chosen):
        best = max(f1_at(i / 20 + 0.001, label) for i in range(-1, 21))
        assert f1_at(threshold, label) == pytest.approx(best)


@pytest.mark.parametrize(("probabilities", "labels", "threshold"), [
    ([0.9, 0.6, 0.2], [1, 1, 0], 0.4),  # half-way between 0.6 and 0.2
    ([0.9, 0.6, 0.2], [1, 0, 0], 0.75),
    ([0.9, 0.6, 0.2], [1, 1, 1], 0.1),
    ([0.9, 0.6, 0.2], [0, 0, 0], 0.5),  # nothing to choose by
    ([0.7, 0.7, 0.7], [1, 0, 0], 0.35),  # nothing parts them
])  # fmt: skip
def test_thresholds_by_hand(probabilities, labels, threshold):
    chosen = best_thresholds(torch.tensor(probabilities)[:, None], torch.tensor(labels)[:, None])
    assert chosen.tolist() == [pytest.approx(threshold)]


def test_jaccard_by_hand():
    found, labels = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]]), torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert float(row_jaccard(found, labels)) == pytest.approx((1 / 3 + 1 + 0) / 3)


def test_label_that_all_rows_have_or_none_has_no_auroc():
    metric = MultiLabelScores(["all", "none", "some"])
    metric.update(torch.full((2, 3), 0.7), torch.tensor([[1, 0, 1], [1, 0, 0]]))
    assert [name for name in metric.compute() if "/" in name] == ["auroc/some"]


def test_one_label():
    scores = multi_label_scores(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[1], [0], [1]]), torch.tensor([0.5]))
    assert float(scores["macro_f1"]) == float(scores["micro_f1"]) == 0.5


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_that_are_none(names):
    with pytest.raises(ConfigurationError, match=r"labels must be different names, at least one, got \["):
        MultiLabelScores(names)
