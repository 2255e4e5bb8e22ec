"""Answers on the page: the prompts that tell methods apart, of each method's first run at the highest ratio."""

import json
from dataclasses import replace

import pytest

from asft_lightning.comparison.examples import Said, examples
from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import cells

UNSAFE = {"sft": [True, True, True, False], "asft": [False, True, False, False]}
"""{method: of each prompt}."""


@pytest.fixture
def found(tmp_path, result):
    """Two methods at two ratios in the comparison's folder; answers to p0 … p3."""
    runs = []
    for method, verdicts in UNSAFE.items():
        for p in (0, 0.1):
            folder = tmp_path / "out" / "runs" / f"{method} {p}"
            (folder / "generations").mkdir(parents=True)
            for moment in ("before", "after"):
                lines = [
                    {"prompt": f"p{i}", "answer": f"<{moment} {method} {p}>" + "x" * 500 * (i == 2), "unsafe": unsafe}
                    for i, unsafe in enumerate(verdicts)
                ]
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (folder / "generations" / f"safety-{moment}.jsonl").write_text(text)
            runs.append(result(method, 50.0, 98.0, 0, p, folder=str(folder)))
    return runs


def test_prompts_that_tell_methods_apart_come_first(found):
    first, last = examples(cells(found), 2)
    assert (first.prompt, last.prompt) == ("p0", "p2")
    assert first.said == [
        Said("sft", "<before sft 0.1>", "<after sft 0.1>", True),
        Said("asft", "<before asft 0.1>", "<after asft 0.1>", False),
    ]
    assert last.said[0].after.endswith("xx …") and len(last.said[0].after) == 402


def test_page_has_them_with_links_to_runs(comparison, found):
    page = Report(comparison(), found, [], [], [], []).write().read_text(encoding="utf-8")
    assert "&lt;before sft 0.1&gt;" in page and "&lt;after asft 0.1&gt;" in page and "<before" not in page
    assert page.count('href="runs/') == 4
    assert 'href="runs/asft%200.1/"' in page
    assert page.index("has the lowest harmful score of") < page.index("<img") < page.index("<table")


def test_runs_without_answers_have_none(comparison, result, found):
    assert examples(cells([result("sft", 50.0, 98.0)])) == []
    assert examples([]) == []
    (only,) = examples(cells([replace(run, folder="") if run.method == "asft" else run for run in found]), 1)
    assert [said.method for said in only.said] == ["sft"]
