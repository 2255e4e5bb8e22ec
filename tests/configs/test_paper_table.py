"""The paper's table as a file: planned, and drawn from made-up runs beside the published figures; no network, no GPU."""

import json

import pytest

from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import Result, read_result
from asft_lightning.errors import ConfigurationError

PUBLISHED = {
    "sft": (35.50, 63.10), "lisa_base": (28.80, 57.56), "lisa_aligned": (10.80, 63.02), "safe_instr": (13.60, 59.91),
    "bea": (17.05, 62.36), "safe_lora": (14.50, 62.19), "asft": (6.90, 65.63),
}  # fmt: skip
"""(HS, FA), means over the four tasks."""


@pytest.fixture
def paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load_comparison("compare/paper")


def test_it_is_four_tasks_of_the_papers_methods_and_ours(paper):
    plan = Plan(paper)
    runs = [run for name in paper.methods for run in plan.reported(name, {})]
    assert len(runs) == 4 * 8 == len({run.key for run in runs})
    assert set(paper.methods) == {*PUBLISHED, "protect"} and paper.default_method == "protect"
    assert {name: tuple(known.values()) for name, known in paper.published.items()} == PUBLISHED
    assert {run.configs[1] for run in runs} == {f"data/{task}" for task in ("sst2", "agnews", "gsm8k", "alpaca")}
    assert all(run.configs[2:5] == ["mixtures/paper", "scoring/paper", "trainer/single"] for run in runs)


def test_each_cell_stands_beside_the_published_one(paper, capsys, monkeypatch):
    """Runs whose mean over the tasks is a point below the published HS and two above the FA."""
    monkeypatch.setenv("COLUMNS", "160")
    runs = [
        Result(method, {"task": task, "seed": 0}, {"harmful_score": hs - 1 + shift, "accuracy": fa + 2 - shift})
        for method, (hs, fa) in {**PUBLISHED, "protect": (2.0, 60.0)}.items()
        for task, shift in zip(paper.axes["task"], (-3.0, -1.0, 1.0, 3.0), strict=True)
    ]
    report = Report(paper, runs, [], [], [], [])
    page = report.write().read_text(encoding="utf-8")
    report.show()
    shown = " ".join(capsys.readouterr().out.split())
    rows = [[method, f"{hs - 1:.1f}", f"{hs:.1f}", f"{fa + 2:.1f}", f"{fa:.1f}"] for method, (hs, fa) in PUBLISHED.items()]
    for row in [*rows, ["protect", "1.0", "–", "62.0", "–"]]:
        assert " ".join(row) in shown
        assert "".join(f"<td>{text}</td>" for text in row[1:]) in page
    assert (paper.folder / "pareto.png").is_file() and (paper.folder / "overall.png").is_file()
    assert json.loads((paper.folder / "results.json").read_text())["comparison"]["published"] == paper.published


def test_alpacas_rubric_is_its_accuracy(paper):
    run = Plan(paper).reported("sft", {})[-1]
    run.folder.mkdir(parents=True)
    (run.folder / "summary.json").write_text(json.dumps({"rubric/score": {"after": 70.0}}))
    assert read_result(run).scores == {"accuracy": 70.0, "rubric/score": 70.0}


def test_published_figures_of_no_method(paper):
    with pytest.raises(ConfigurationError, match=r"published figures are of methods, sft, .*, got 'sfft'. Add it"):
        type(paper)(**{**vars(paper), "published": {"sfft": {"harmful_score": 1.0}}})
