"""A comparison's file, and folders of runs, that come from elsewhere: nothing is written outside, computed or stopped."""

import csv
import json

import pytest
from matplotlib.image import imread

from asft_lightning.cli import main
from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.report import Report
from asft_lightning.errors import ConfigurationError

NO_NAMES = [
    "../../../x",
    "/x",
    "a/b",
    "a\\b",
    "..",
    ".x",
    "",
    " a",
    "a ",
    "=1+1",
    "+1",
    "-1",
    "@a",
    "a\nb",
    "\x1b[2J",
    "x" * 81,
    "[/x]",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_name_of_a_method(comparison, name):
    with pytest.raises(ConfigurationError, match=r"a method's name must be letters, digits, spaces and any of .*, got "):
        comparison(methods={name: {}})


@pytest.mark.parametrize("name", ["sft", "AsFT (λ = 1)", "gram + activation", "v1.2_b"])
def test_names_that_may_be(comparison, tmp_path, name):
    (run, *_) = Plan(comparison(methods={name: {}})).reported(name, {})
    assert run.folder.parent == tmp_path / "out" / "runs"


@pytest.mark.parametrize("value", ["../../x", "/x", ".."])
def test_value_of_an_axis_leads_nowhere(comparison, tmp_path, value):
    method = {"settings": {"data.init_args.packing": "$packing"}, "axes": {"packing": [value]}}
    for run in Plan(comparison(methods={"sft": method})).reported("sft", {}):
        assert run.folder.resolve().parent == tmp_path / "out" / "runs"


@pytest.mark.parametrize(
    ("begin", "expected"),
    [(text, f"'{text}") for text in ("=1+1", "+1", "-1+1", "@SUM(1)", "\t=1", "\n=1", "＝1")] + [("\r=1", "\\r=1")],
)
def test_no_cell_is_a_formula(comparison, result, tmp_path, begin, expected):
    found = result("sft", -3.0, 98.0, folder=begin, kind=begin)
    found.scores[begin] = -1.0
    Report(comparison(), [found], [], [], [], []).write()
    for name in ("runs.csv", "table.csv"):
        with (tmp_path / "out" / name).open(newline="") as file:
            heading, line = csv.reader(file)
        cells = dict(zip(heading, line, strict=True))
        assert cells["kind"] == cells.get("folder", expected) == expected
        assert expected in heading and cells["harmful_score"] == "-3.0"


def test_a_dollar_is_no_mathematics(comparison, result, tmp_path):
    found = [result("sft", hs, 98.0, steps={1: hs}, kind=kind) for hs, kind in ((1.0, "$\\x$"), (2.0, "$_$"))]
    Report(comparison(), found, [], [], [], []).write()
    assert imread(tmp_path / "out" / "steps.png").any()


@pytest.mark.parametrize("where", ["settings", "methods"])
def test_password_in_an_address(comparison, where):
    settings = {"judge": {"url": "http://user:s3cret@host/v1"}}
    changes = {"settings": settings} if where == "settings" else {"methods": {"sft": {"settings": settings}}}
    with pytest.raises(ConfigurationError, match=r"a password, which is not shown\. Name an env") as caught:
        comparison(**changes)
    assert "s3cret" not in str(caught.value)


DAMAGED = {
    "cut short": '{"run": {"ended": tr',
    "empty": "",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no number": '{"run": {"ended": true}, "safety/harmful_score": {"after": "x"}}',
    "infinite": '{"run": {"ended": true}, "safety/harmful_score": {"after": 1e999}}',
    "facts": '{"run": {"ended": true, "training_seconds": [1]}}',
    "of a later version": '{"version": 99}',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_run_stops_no_other(write, comparison, tmp_path, capsys, what):
    plan = Plan(comparison())
    bad, *good = plan.reported("sft", {})
    for i, run in enumerate([bad, *good]):
        run.folder.mkdir(parents=True)
        scores = {"safety/harmful_score": {"after": float(i)}, "utility/accuracy": {"after": 98.0}}
        content = json.dumps({"run": {"ended": True}, **scores}) if run is not bad else DAMAGED[what]
        (run.folder / "summary.json").write_text(content)
    with pytest.raises(SystemExit) as exit_info:
        main(["compare", str(write()), "--report_only=true"])
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert exit_info.value.code == 1
    assert [run["folder"] for run in content["runs"]] == [str(run.folder) for run in good]
    assert [failure["run"] for failure in content["failures"]] == [bad.name]
    assert f"failed: {bad.name}: {bad.folder / 'summary.json'} " in capsys.readouterr().out.replace("\n", "")
