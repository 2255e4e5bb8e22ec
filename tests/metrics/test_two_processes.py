"""Every metric over two processes with uneven shares: one figure over all answers, not the mean of two."""

import pytest
import torch
from kit.ranks import on_ranks

from asft_lightning import AnswerAccuracy, HarmfulScore
from asft_lightning.metrics import MultiLabelScores, RefusalRate, RubricScore, Share, WiScore, best_thresholds

GROUPS = ["a", "b", "never"]
HITS = [1, 0, 0, 0, 0, 1]
ANSWERS = ["a", "b", "c", "d", "x", "x"]
REFERENCES = ["a", "b", "c", "x", "y", "z"]
RATINGS = [[1, 10], [2, 9], [3, 3], [10, 10], [5, 1], [7, 7]]
MEMBERS = [["a"], ["a", "b"], [], ["b"], ["b"], ["a"]]
SHARES = {
    "uneven": (slice(0, 5), slice(5, 6)),
    "one without": (slice(0, 6), slice(6, 6)),
    "first without": (slice(0), slice(6)),
}


def metrics_of(share):
    """Each metric, with the answers of one share."""
    hits, members = torch.tensor(HITS[share]), MEMBERS[share]
    metrics = [Share(groups=GROUPS), HarmfulScore(groups=GROUPS), RefusalRate(groups=GROUPS)]
    accuracy, rubric = AnswerAccuracy(groups=GROUPS), RubricScore({"x": 1.0, "y": 2.0}, groups=GROUPS)
    if members:  # as the callbacks, which score nothing where there are no rows
        for metric in metrics:
            metric.update(hits, members)
        accuracy.update(ANSWERS[share], REFERENCES[share], members)
        rubric.update(torch.tensor(RATINGS[share]), members)
    return [*metrics, accuracy, rubric]


def parts(metric):
    """What it says beside compute, as a flat list."""
    extra = list(metric.by_axis().values()) if isinstance(metric, RubricScore) else list(metric.interval())
    return extra + [
        figure for group in metric.by_group().values() for figure in (group if isinstance(group, tuple) else [group])
    ]


def states(metric):
    return {name: getattr(metric, name) for name in metric._defaults}


def report(metric):
    """What it says before and after compute and while the user has it synced, and the states that it is left with."""
    said = [parts(metric), float(metric.compute()), parts(metric)]
    metric.sync()
    said.append(parts(metric))
    metric.unsync()
    return said, states(metric)


def reports_of(rank, shares):
    found = [report(metric) for metric in metrics_of(shares[rank])]
    local = HarmfulScore(groups=GROUPS, sync_on_compute=False)
    local.update(torch.tensor([rank, 1]), [["a"], ["a"]])
    batch = [float(HarmfulScore()(torch.tensor([rank]))), float(RubricScore({"x": 1.0})(torch.tensor([[1 + 9 * rank]])))]
    return found, [float(local.compute()), local.by_group()["a"].total, *batch]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("case", SHARES)
def test_uneven_shares(tmp_path, case):
    """HS: 2 of 6, where the uneven shares' mean is 60. FA: 3 of 6, where it is 30."""
    shares = SHARES[case]
    ranks = on_ranks(reports_of, 2, tmp_path, shares)
    alone = [(parts(metric), float(metric.compute())) for metric in metrics_of(slice(0, 6))]
    assert [score for _, score in alone[1:4]] == pytest.approx([100 / 3, 100 / 3, 50.0])

    for rank, (reports, local) in enumerate(ranks):
        own = [states(metric) for metric in metrics_of(shares[rank])]
        for ((before, score, after, synced), left), (expected, whole), kept in zip(reports, alone, own, strict=True):
            assert score == pytest.approx(whole)
            assert [before, after, synced] == [pytest.approx(expected, nan_ok=True)] * 3
            assert all(torch.equal(left[name], kept[name]) for name in kept)
        assert local == [50.0 + 50.0 * rank, 2, 100.0 * rank, 100.0 * rank]  # sync_on_compute=False, and forward


def wiscores_of(rank):
    """Six images on two ranks, of which one on both."""
    metric = WiScore("verified")
    ids = torch.tensor([[1, 2, 401, 402], [1, 3]][rank])
    metric.update(torch.tensor([[[1], [1], [0], [1]], [[0], [0]]][rank]), ids)
    return [figure for field in metric.by_field().values() for figure in (field.mean, field.rated)][:4]


def test_wiscore_over_ranks(tmp_path):
    assert on_ranks(wiscores_of, 2, tmp_path) == [[pytest.approx(0.5), 3, 0.5, 2]] * 2


PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.4, 0.7], [0.3, 0.6], [0.2, 0.9]])
LABELS = torch.tensor([[1, 0], [1, 1], [1, 0], [0, 1], [0, 1]])


def multi_label_of(rank):
    """Five rows on two ranks."""
    metric, own = MultiLabelScores(["x", "y"]), [slice(0, 2), slice(2, 5)][rank]
    metric.update(PROBABILITIES[own], LABELS[own])
    scores = metric.compute()
    return metric.thresholds().tolist(), {name: float(value) for name, value in scores.items()}, len(metric.labels)


def test_multi_label_scores_over_ranks(tmp_path):
    alone = MultiLabelScores(["x", "y"])
    alone.update(PROBABILITIES, LABELS)
    scores = {name: pytest.approx(float(value)) for name, value in alone.compute().items()}
    assert on_ranks(multi_label_of, 2, tmp_path) == [(best_thresholds(PROBABILITIES, LABELS).tolist(), scores, 1)] * 2
