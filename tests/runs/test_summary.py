"""Summary: what is added stays, what is written is read again, and the table people see."""

import json

import pytest

from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.summary import RunFacts, Summary, updated

MOMENTS = {"before": Moment.BEFORE, "50": Moment.at(50), "100": Moment.at(100), "after": Moment.AFTER, "test": Moment.TEST}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def test_scores_are_added_to_what_is_there(folder):
    assert Summary.read(folder) == Summary()
    for (name, moment), value in zip(MOMENTS.items(), (1.5, 20.0, 30.0, 40.0, 41.0), strict=True):
        with updated(folder) as summary:
            details = {"interval": [0.0, value]} if name.isdigit() else {}
            summary.score("safety/harmful_score").record(moment, value, details)
    with updated(folder) as summary:
        summary.score("utility/accuracy").record(Moment.AFTER, None, {"unscored": 3})
    expected = {
        "version": 1,
        "run": {},
        "safety/harmful_score": {
            "before": 1.5,
            "steps": {"50": 20.0, "100": 30.0},
            "after": 40.0,
            "test": 41.0,
            "interval": {"50": [0.0, 20.0], "100": [0.0, 30.0]},
        },
        "utility/accuracy": {"after": None, "unscored": {"after": 3}},
    }

    assert json.loads(folder.summary.read_text()) == expected
    score = Summary.read(folder).scores["safety/harmful_score"]
    assert (score.before, score.after, score.steps) == (1.5, 40.0, {50: 20.0, 100: 30.0})
    assert score.interval(Moment.at(50)) == (0.0, 20.0) and score.interval(Moment.AFTER) is None
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]


def test_facts_are_read_as_written(folder):
    """What is 0 stays, what is not known is not there, and what no reader knows by name is kept."""
    facts = RunFacts("AsFT", 0.0, 16, 0, training_seconds=1.5, more={"seed": 3, "drift_budget": None, "rho": 0.1})
    Summary(facts).write(folder)
    written = json.loads(folder.summary.read_text())["run"]

    assert Summary.read(folder).run == facts
    assert written == {
        "method": "AsFT", "lambda_reg": 0.0, "rows": 16, "harmful_rows": 0, "training_seconds": 1.5, "seed": 3,
        "drift_budget": None, "rho": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"version": 2, "run": {}}', "must be of version 1 or earlier, got 2. Update asft-lightning"),
        ('{"run": {}', "cannot be read as a run's summary"),
        ("[]", "cannot be read as a run's summary"),
    ],
)
def test_damaged_or_later_files_are_errors(folder, content, says):
    folder.path.mkdir()
    folder.summary.write_text(content)
    with pytest.raises(ConfigurationError, match=says):
        Summary.read(folder)
    assert folder.summary.read_text() == content


@pytest.mark.parametrize(
    ("before", "after", "cells"),
    [(10.0, 35.5, ["10.0", "35.5", "+25.5"]), (None, 3.0, ["–", "3.0", "–"]), (9.0, 4.0, ["9.0", "4.0", "-5.0"])],
)
def test_table(folder, capsys, before, after, cells):
    summary = Summary()
    for moment, value in ((Moment.BEFORE, before), (Moment.AFTER, after)):
        if value is not None:
            summary.score("utility/accuracy").record(moment, value, {})
    summary.show(folder)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "utility/accuracy" in line]
    assert line.split()[-3:] == cells


def test_table_shows_intervals_and_what_scoring_took(folder, capsys):
    summary = Summary(RunFacts(scoring_seconds={"safety": 3.25, "utility": 3.0}))
    summary.score("safety/harmful_score").record(Moment.AFTER, 7.5, {"interval": [3.25, 16.0]})
    summary.show(folder)
    shown = capsys.readouterr().out

    assert "7.5    3.2–16.0" in shown
    assert "scoring took 6 s" in shown


def test_table_of_test_shows_what_it_measured_alone(folder, capsys):
    summary = Summary()
    summary.score("safety/harmful_score").record(Moment.AFTER, 7.5, {})
    summary.score("utility/accuracy").record(Moment.TEST, 98.0, {"interval": [90.0, 99.5]})
    summary.show_test(folder)
    shown = capsys.readouterr().out
    assert "98.0   90.0–99.5" in shown and "safety" not in shown and str(folder.scored) in shown


def test_a_notebook_shows_the_table():
    summary = Summary(RunFacts(method="<AsFT>"))
    assert repr(summary) == "Summary(<AsFT>: no scores)"
    for moment, value in ((Moment.BEFORE, 1.5), (Moment.AFTER, 40.0)):
        summary.score("safety/<harmful>").record(moment, value, {"interval": [0.0, 50.0]})
    assert repr(summary) == "Summary(<AsFT>: safety/<harmful> 1.5 → 40.0)"
    assert "safety/&lt;harmful&gt;<" in summary._repr_html_()
    assert "+38.5" in summary._repr_html_()
