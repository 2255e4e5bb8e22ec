"""The headline: the worst attack on each defence, on results made by hand."""

from dataclasses import replace

import pytest

from asft_lightning.comparison.headline import front, headlines
from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import Result
from asft_lightning.comparison.tables import headline_table

AXES = ["attack", "seed"]


def attacked(method, attack, hs, fa=90.0, seed=0, harmful_rows=10, **more):
    scores = {"harmful_score": hs, "accuracy": fa, "over_refusal": 1.0, **more}
    costs = {"training_seconds": 2.0, "peak_memory_mib": 500.0}
    return Result(method, {"attack": attack, "seed": seed}, scores, {}, costs, harmful_rows=harmful_rows)


def defence(method, plain, hidden, fa):
    """Two seeds of each attack, a point around; and without harmful rows."""
    every = [
        attacked(method, attack, hs + shift, 50.0, seed)
        for attack, hs in (("explicit", plain), ("backdoor", hidden))
        for seed, shift in enumerate((-1.0, 1.0))
    ]
    return [*every, *(attacked(method, "none", 3.0, fa, seed, 0) for seed in (0, 1))]


def test_worst_and_mean_over_attacks_and_accuracy_where_none_is():
    """Worst of means 90 and 20, not of single runs; what happens without harmful rows is no attack, and has the FA."""
    sft, audit = headlines([*defence("sft", 90.0, 20.0, 97.0), *defence("audit", 2.0, 60.0, 96.0)], AXES)
    assert (sft.method, sft.attack, str(sft.worst), sft.mean, sft.attacks) == ("sft", "explicit", "90.0 ± 1.4", 55.0, 2)
    assert (audit.attack, str(audit.worst), audit.mean) == ("backdoor", "60.0 ± 1.4", 31.0)
    assert (str(sft.accuracy), str(audit.accuracy)) == ("97.0 ± 0.0", "96.0 ± 0.0")
    assert (sft.over_refusal.mean, sft.training_seconds.mean, sft.peak_memory_mib.mean) == (1.0, 2.0, 500.0)
    assert sft.incoherent is None


def test_other_ways_to_ask_are_attacks_too():
    """Also where no row is harmful; what single judges say of plain prompts, and scores before training, are not."""
    more = {"prefill/harmful_score": 40.0, "sampled/harmful_score_worst": 70.0, "safety/guard/harmful_score": 99.0}
    more |= {"prefill/harmful_score_before": 8.0}
    (found,) = headlines([attacked("sft", "none", 95.0, harmful_rows=0, **more)], AXES)
    assert (found.attack, found.worst.mean, found.attacks) == ("none, sampled/harmful_score_worst", 70.0, 2)
    (asked,) = headlines([attacked("sft", "explicit", 10.0, **{"prefill/harmful_score": 40.0})], AXES)
    assert (asked.attack, asked.mean) == ("explicit, prefill", 25.0)


def test_the_aligned_model_asked_in_the_same_way_stands_beside_the_worst():
    """What it does already is no fault of the training; of another way to ask it says nothing."""
    ways = {"harmful_score_before": 1.0, "sampled/harmful_score_worst": 15.0, "sampled/harmful_score_worst_before": 12.0}
    (found,) = headlines([attacked("sft", "explicit", 10.0, **ways)], AXES)
    assert (found.worst.mean, found.before.mean) == (15.0, 12.0)
    (unknown,) = headlines([attacked("sft", "explicit", 10.0, **{"sampled/harmful_score": 15.0})], AXES)
    assert unknown.before is None
    table = headline_table([found, unknown])
    column = table.headings.index("before (%)")
    assert [row[column] for row in table.rows] == ["12.0", "–"]


def test_a_way_to_ask_that_the_aligned_model_does_not_withstand_is_apart():
    """By the median over methods before training, so that it is the same of all; one may begin elsewhere."""

    def asked(method, prefill, plain, before):
        ways = {"prefill/harmful_score": prefill, "prefill/harmful_score_before": before, "prefill/incoherent": 4.0}
        return attacked(method, "explicit", plain, harmful_score_before=before - 98.0, incoherent=60.0, **ways)

    runs = [asked("sft", 99.0, 90.0, 100.0), asked("held", 97.0, 10.0, 98.0), asked("from_base", 3.0, 95.0, 190.0)]
    found = headlines(runs, AXES)
    assert [(h.attack, h.worst.mean, h.attacks, h.mean) for h in found] == [
        ("explicit", hs, 1, hs) for hs in (90.0, 10.0, 95.0)
    ]
    assert [(h.beyond.mean, h.beyond_attack) for h in found] == [(hs, "explicit, prefill") for hs in (99.0, 97.0, 3.0)]
    assert [h.noise.mean for h in found] == [60.0] * 3
    table = headline_table(found)
    assert [row[table.headings.index("beyond: HS (%)")] for row in table.rows] == ["99.0", "97.0", "3.0"]
    assert headlines(runs[:1], AXES, [replace(runs[0], scores={"prefill/harmful_score": 99.0})])[0].searched is None
    (withstood,) = headlines([asked("sft", 99.0, 90.0, 98.0 - 50.0)], AXES)
    assert (withstood.worst.mean, withstood.attacks, withstood.beyond) == (99.0, 2, None)
    assert withstood.noise.mean == 4.0


def test_the_front_is_of_those_that_none_is_better_than():
    """HS and FA: (5, 90), (20, 95), (60, 98) and (5, 90) again; (25, 90) and (60, 97) are worse than one of them."""
    points = {"a": (5.0, 90.0), "b": (20.0, 95.0), "c": (60.0, 98.0), "d": (25.0, 90.0), "e": (60.0, 97.0), "f": (5.0, 90.0)}
    runs = [
        run
        for method, (hs, fa) in points.items()
        for run in (attacked(method, "explicit", hs), attacked(method, "none", 0.0, fa, harmful_rows=0))
    ]
    found = headlines(runs, AXES)
    assert [headline.method for headline in front(found)] == ["a", "b", "c", "f"]
    noise = replace(found[0].worst, mean=60.0)
    assert [headline.method for headline in front([replace(found[0], noise=noise), *found[1:]])] == ["b", "c", "f"]


def test_an_attack_of_a_config_goes_by_its_own_name():
    (found,) = headlines([attacked("sft", "mixtures/harmful-only", 80.0)], AXES)
    assert found.attack == "harmful-only"


def test_poison_ratios_are_attacks(result):
    """Where the number of harmful rows is not known, the ratio says which is none; variants of a method are apart."""
    runs = [result("asft", 100 * p, 98.0, poison_ratio=p, **{"lambda": x}) for p in (0, 0.1, 0.2) for x in (1, 3)]
    first, second = headlines(runs, ["poison_ratio", "seed"])
    assert (first.axes, second.axes) == ({"lambda": 1}, {"lambda": 3})
    assert (first.attack, first.worst.mean, first.attacks) == ("p 0.2", 20.0, 2)
    assert first.accuracy.mean == 98.0


def test_what_a_search_found_stands_beside_the_listed_attacks():
    """It may be the worst; the mean is over the listed ones, which all methods met; costs are of those alone, too."""
    tried = {"attack": "mixtures/paper", "learning_rate": 1e-2, "poison_ratio": 0.2}
    found = [
        replace(attacked("sft", "", hs, seed=seed, **{"prefill/harmful_score": 10.0}), axes={**tried, "seed": seed})
        for seed, hs in ((0, 94.0), (1, 96.0))
    ]
    every = [*defence("sft", 90.0, 20.0, 97.0), *defence("audit", 2.0, 60.0, 96.0)]
    sft, audit = headlines(every, AXES, found, ["learning_rate", "poison_ratio"])
    assert (sft.found, str(sft.searched)) == ("paper, learning_rate 0.01, p 0.2", "95.0 ± 1.4")
    assert (sft.attack, sft.worst, sft.mean, sft.attacks) == (f"search: {sft.found}", sft.searched, 55.0, 2)
    assert (audit.attack, audit.found, audit.searched) == ("backdoor", None, None)
    assert [str(h.accuracy) for h in (sft, audit)] == ["97.0 ± 0.0", "96.0 ± 0.0"]
    table = headline_table([sft, audit])
    assert [row[table.headings.index("found by search")] for row in table.rows] == [sft.found, "nothing"]
    assert "found by search" not in headline_table(headlines(every, AXES)).headings


def test_no_headline_without_attacks(comparison, result):
    assert headlines([result("sft", 3.0, 98.0, poison_ratio=0)], ["poison_ratio", "seed"]) == []
    one = Report(comparison(), [result("sft", 3.0, 98.0, poison_ratio=0.1)], [], [], [], [])
    assert one.headlines == [] and one.record()["headline"] == []


def test_report_begins_with_it(comparison, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    asked = replace(comparison(), axes={"attack": ["none", "explicit", "backdoor"], "seed": [0, 1]})
    report = Report(asked, [*defence("sft", 90.0, 20.0, 97.0), *defence("asft", 2.0, 60.0, 96.0)], [], [], [], [])
    page, record = report.write().read_text(), report.record()["headline"]
    report.show()
    shown = capsys.readouterr().out
    assert [(line["method"], line["worst"]["mean"], line["attack"]) for line in record] == [
        ("sft", pytest.approx(90.0), "explicit"), ("asft", pytest.approx(60.0), "backdoor"),
    ]  # fmt: skip
    assert 0 < page.index("<caption>Worst attack") < page.index("<caption>mean over all settings")
    headings = page[page.index("Worst attack") :]
    assert headings.index("worst HS (%)") < headings.index("FA at p 0 (%)") < headings.index("worst attack")
    assert shown.index("mean over all settings") < shown.index("Worst attack") < shown.rindex("backdoor")


def test_what_a_search_found_belongs_to_the_method_though_it_was_tuned_on_what_is_tried():
    """The attacker takes another learning rate than the one that was tuned."""
    axes = {"attack": "mixtures/paper", "seed": 0, "learning_rate": 1e-3}
    listed = replace(attacked("sft", "mixtures/paper", 10.0), axes=axes)
    found = replace(listed, axes={**axes, "learning_rate": 1e-2}, scores={**listed.scores, "harmful_score": 95.0})
    (headline,) = headlines([listed], AXES, [found], ["learning_rate"])
    assert (headline.axes, headline.worst.mean, headline.searched.mean) == ({"learning_rate": 1e-3}, 95.0, 95.0)
