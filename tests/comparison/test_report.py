"""The report, on results made by hand."""

import csv
import json
import re
from dataclasses import replace

import pytest

from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import cells
from asft_lightning.comparison.runner import Failure
from asft_lightning.comparison.tuning import choose
from asft_lightning.runs.alignment_log import AlignmentLog, LayerFigures

FAILURE = Failure("bea-seed0-abc", "no <secret> & no rows", "out/runs/bea-seed0-abc/log.txt")


@pytest.fixture
def report(comparison, result, tmp_path):
    """Two methods, two poison ratios, three seeds; asft was tuned."""
    found = []
    for p in (0, 0.1):
        for seed, shift in enumerate((-2.0, 0.0, 2.0)):
            for method, hs in (("asft", 10.0), ("sft", 90.0)):
                folder = tmp_path / f"{method}-{p}-{seed}"
                folder.mkdir()
                log = AlignmentLog(folder / "alignment.csv")
                log.begin(0)
                modules = [f"model.layers.{i}.self_attn.{kind}_proj" for i in (0, 1) for kind in "qv"]
                log.add([LayerFigures("after", 4, module, "Gram", 2.0 + seed, 0.1, 0.8, 1.0) for module in modules])
                steps = {2: hs / 2, 4: hs + shift}
                found.append(
                    result(method, hs + shift, 98.0, seed, p, steps, str(folder), **{"lambda": 1} if hs < 50 else {})
                )
    trials = [[result("asft", 5.0 * i, 99.0, 100, **{"lambda": i})] for i in (1, 2)]
    choice = choose("asft", [{"lambda": 1}, {"lambda": 2}], trials, 2.0)
    tuning = {"axes": {"seed": [100], "poison_ratio": [0.1]}}
    setting = {"settings": {"model.init_args.lambda_reg": "$lambda"}, "tune": {"lambda": [1, 2]}}
    asked = comparison(methods={"sft": {}, "asft": setting}, tuning=tuning)
    return Report(asked, found, [run for own in trials for run in own], [choice], [FAILURE], ["x"])


def test_mean_spread_and_number_of_seeds(report):
    """Mean of 8, 10, 12 is 10, their sample standard deviation sqrt((4 + 0 + 4) / 2) = 2; seconds 2, 3, 4."""
    sft, asft, *_ = report.cells
    assert [(cell.method, cell.axes["poison_ratio"]) for cell in report.cells] == [
        ("sft", 0), ("asft", 0), ("sft", 0.1), ("asft", 0.1),
    ]  # fmt: skip
    assert str(asft.spread("harmful_score")) == "10.0 ± 2.0"
    assert str(sft.spread("accuracy")) == "98.0 ± 0.0"
    assert asft.record() == {
        "method": "asft", "poison_ratio": 0, "lambda": 1, "seeds": 3,
        "harmful_score": {"mean": 10.0, "deviation": 2.0}, "accuracy": {"mean": 98.0, "deviation": 0.0},
        "training_seconds": {"mean": 3.0, "deviation": 1.0}, "peak_memory_mib": {"mean": 500.0, "deviation": 0.0},
    }  # fmt: skip


def test_mean_over_all_settings(report):
    """Of both poison ratios, by seed: 8, 10, 12 again; scores alone, for costs of other settings are no costs of one."""
    sft, asft = report.overall
    assert (sft.method, asft.method) == ("sft", "asft")
    assert asft.record() == {
        "method": "asft", "lambda": 1, "seeds": 3,
        "harmful_score": {"mean": 10.0, "deviation": 2.0}, "accuracy": {"mean": 98.0, "deviation": 0.0},
    }  # fmt: skip
    assert report.record()["overall"] == [sft.record(), asft.record()]


def test_seed_that_lacks_a_setting_is_not_in_the_mean_over_all(report):
    lacking = [r for r in report.results if (r.method, r.axes["seed"], r.axes["poison_ratio"]) != ("sft", 1, 0.1)]
    sft, asft = replace(report, results=lacking).overall
    assert (sft.seeds, asft.seeds) == (2, 3)
    assert str(sft.spread("harmful_score")) == "90.0 ± 2.8"


def test_one_setting_has_no_mean_over_all(report):
    alone = [r for r in report.results if r.axes["poison_ratio"] == 0]
    assert replace(report, results=alone).overall == []
    assert "mean over all settings" not in [heading for heading, _ in replace(report, results=alone).sections]


def test_default_method_is_marked(report, capsys):
    marked = replace(report, comparison=replace(report.comparison, default_method="asft"))
    marked.show()
    assert marked.record()["default_method"] == "asft"
    assert "asft (default)" in capsys.readouterr().out
    assert "asft (default)" in marked.write().read_text()


def test_one_seed_has_no_spread_and_what_is_unknown_no_mean(result):
    (cell,) = cells([result("sft", None, 98.0)])
    assert cell.spread("harmful_score") is None
    assert str(cell.spread("accuracy")) == "98.0"
    assert cell.spread("over_refusal") is None


def test_files(report, tmp_path):
    report.write()
    folder = tmp_path / "out"
    content = json.loads((folder / "results.json").read_text())
    with (folder / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    with (folder / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    wanted = {"method": "asft", "poison_ratio": 0.1, "seed": 2, "harmful_score": 12.0, "accuracy": 98.0, "lambda": 1}
    (run,) = [r for r in content["runs"] if (r["method"], r["poison_ratio"], r["seed"]) == ("asft", 0.1, 2)]

    assert wanted.items() <= run.items()
    assert run["steps"] == {"harmful_score": {"2": 5.0, "4": 12.0}}
    assert content["tuning"]["methods"][0]["chosen"] == {"lambda": 1}
    assert content["failures"] == [{"run": FAILURE.run, "reason": FAILURE.reason, "log": FAILURE.log}]
    assert len(runs) == 12
    assert (table[1]["method"], table[1]["harmful_score"], table[1]["harmful_score_deviation"]) == ("asft", "10.0", "2.0")
    assert sorted(path.name for path in folder.glob("*.png")) == [
        "overall.png",
        "pareto-tuning.png",
        "pareto.png",
        "steps.png",
        "update.png",
    ]


def test_page_needs_nothing_beside_itself(report):
    page = report.write().read_text(encoding="utf-8")

    assert "http" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count('src="data:image/png;base64,iVBOR') == 5
    assert "no &lt;secret&gt; &amp; no rows" in page
    assert "10.0 ± 2.0" in page
    assert "lambda 1 (chosen)" in " ".join(page.split())


def test_what_was_not_measured_is_not_drawn(comparison, result, tmp_path):
    report = Report(comparison(), [result("sft", 90.0, None, folder="nowhere")], [], [], [], [])
    page = report.write().read_text(encoding="utf-8")

    assert not list((tmp_path / "out").glob("*.png"))
    assert "<img" not in page
    assert "–" not in page or "Tuning" not in page
    assert replace(report, results=[]).write().is_file()


def test_terminal(report, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report.show()
    shown = capsys.readouterr().out

    assert re.search(r"asft +3 +10\.0 ± 2\.0 +98\.0 ± 0\.0 +3 +500", shown)
    assert "tuned: asft: lambda 1" in shown
    assert "failed: bea-seed0-abc: no <secret> & no rows\n  out/runs/bea-seed0-abc/log.txt" in shown
    assert "1 reported runs are missing" in shown
