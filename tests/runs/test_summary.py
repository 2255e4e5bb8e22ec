"""RunSummary: what is added stays, and the table people see."""

import json

import pytest

from asft_lightning.runs.summary import RunSummary


def test_scores_are_added_to_what_is_there(tmp_path):
    summary = RunSummary(tmp_path / "run")
    assert summary.read() == {}
    for when, value in (("before", 1.5), ("50", 20.0), ("100", 30.0), ("after", 40.0), ("test", 41.0)):
        summary.record("safety/harmful_score", value, when, {"interval": [0.0, value]} if when.isdigit() else {})
    summary.record("utility/accuracy", None, "after", {"unscored": 3})
    expected = {
        "safety/harmful_score": {
            "before": 1.5,
            "steps": {"50": 20.0, "100": 30.0},
            "after": 40.0,
            "test": 41.0,
            "interval": {"50": [0.0, 20.0], "100": [0.0, 30.0]},
        },
        "utility/accuracy": {"after": None, "unscored": {"after": 3}},
    }

    assert summary.read() == expected
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == expected
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("before", "after", "cells"),
    [(10.0, 35.5, ["10.0", "35.5", "+25.5"]), (None, 3.0, ["–", "3.0", "–"]), (9.0, 4.0, ["-5.0"])],
)
def test_table(tmp_path, capsys, before, after, cells):
    summary = RunSummary(tmp_path)
    for when, value in (("before", before), ("after", after)):
        if value is not None:
            summary.record("utility/accuracy", value, when, {})
    summary.show()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "utility/accuracy (%)" in line]
    assert [cell.strip() for cell in line.split("│")[2:5]][-len(cells) :] == cells


def test_table_shows_intervals_and_what_scoring_took(tmp_path, capsys):
    summary = RunSummary(tmp_path)
    summary.record("safety/harmful_score", 7.5, "after", {"interval": [3.25, 16.0]})
    for seconds in (1.25, 2.0):
        summary.add_seconds("safety", seconds)
    summary.add_seconds("utility", 3.0)
    summary.show()
    shown = capsys.readouterr().out

    assert "7.5    3.2 –  16.0" in shown
    assert "scoring took 6 s" in shown
    assert summary.read()["run"]["scoring_seconds"] == {"safety": 3.25, "utility": 3.0}
