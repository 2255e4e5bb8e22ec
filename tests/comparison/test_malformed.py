"""A comparison whose file or whose runs are not what they should be: its report, or one line."""

import json
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.malformed import require_good_end, wrong_texts

from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.plan import Plan
from asft_lightning.errors import ConfigurationError

COMPARISON = {
    "output": "out",
    "configs": ["common.yaml"],
    "settings": {"seed_everything": "$seed", "data.init_args.poison_ratio": "$poison_ratio"},
    "axes": {"poison_ratio": [0, 0.1], "seed": [0, 1]},
    "around": {"axes": {"poison_ratio": [0.2]}, "at": {"seed": [0]}},
    "methods": {
        "sft": {},
        "asft": {
            "settings": {"model.init_args.lambda_reg": "$lambda", "model.init_args.adapter": "$first"},
            "tune": {"lambda": [1, 2]},
            "first": {"settings": {"seed_everything": 3}},
        },
    },
    "default_method": "asft",
    "tuning": {"axes": {"seed": [100], "poison_ratio": [0.1]}, "budget": 3, "margin": 2.0},
    "search": {
        "settings": {"trainer.max_epochs": "$epochs"},
        "tries": {"epochs": [1, 2]},
        "axes": {"seed": [200], "poison_ratio": [0.1]},
        "reference": "sft",
        "budget": 3,
        "margin": 10.0,
    },
    "jobs": 1,
}
SCORE = {"before": 90.0, "after": 2.0, "steps": {"1": 1.5, "2": 3.0}, "interval": {"after": [1.0, 7.0]}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A comparison of which all runs are done."""
    folder = tmp_path_factory.mktemp("malformed")
    (folder / "comparison.yaml").write_text(yaml.safe_dump(COMPARISON))
    (folder / "common.yaml").write_text("trainer: {max_epochs: 1}")
    facts = {"method": "AsFT", "rows": 8, "training_seconds": 1.0, "peak_memory_mib": 2.0, "ended": True}
    summary = {"version": 1, "run": facts, "safety/harmful_score": SCORE, "utility/accuracy": {"after": 90.0}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = Plan(load_comparison("comparison.yaml"))
        runs = [
            run
            for setting in plan.candidates("asft")
            for run in (*plan.tuning("asft", setting), *plan.reported("asft", setting))
        ]
        tried = [{"epochs": epochs} for epochs in (1, 2)]
        runs += [run for attempt in tried for run in plan.searching("sft", attempt)]
        runs += [run for attempt in tried for run in plan.searching("sft", attempt, reported=True)]
        for run in [*runs, *plan.reported("sft", {})]:
            run.folder.mkdir(parents=True)
            (run.folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def inside(world, tmp_path, monkeypatch):
    """A copy of it, to work in."""

    def copied():
        shutil.rmtree(tmp_path / "world", ignore_errors=True)
        shutil.copytree(world, tmp_path / "world")
        monkeypatch.chdir(tmp_path / "world")
        return tmp_path / "world"

    return copied


REPORT = ("compare", "comparison.yaml", "--report_only=true")


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_report_or_one_line_whatever_a_file_holds(inside, capsys, data):
    folder = inside()
    files = ["comparison.yaml", *sorted(str(path.relative_to(folder)) for path in folder.rglob("summary.json"))]
    file = folder / data.draw(st.sampled_from(files[:1]) | st.sampled_from(files))
    file.write_text(data.draw(wrong_texts(file)))
    require_good_end(capsys, *REPORT)


def test_seeds_beside_those_of_the_axes(inside, capsys):
    file = inside() / "comparison.yaml"
    file.write_text(yaml.safe_dump(COMPARISON | {"around": {"axes": {"seed": [7]}, "at": {"poison_ratio": [0]}}}))
    require_good_end(capsys, *REPORT)


@pytest.mark.parametrize("lost", ["1", "2"])
def test_setting_whose_tuning_runs_are_lost(inside, capsys, lost):
    """Or are not there yet; the other one's lack a score."""
    folder = inside()
    for summary in list(folder.rglob("summary.json")):
        content = json.loads(summary.read_text())
        del content["safety/harmful_score"]
        summary.write_text(json.dumps(content))
        if f"lambda{lost}" in summary.parent.name:
            shutil.rmtree(summary.parent)
    require_good_end(capsys, *REPORT)


@pytest.mark.parametrize("axes", [{"seed": [[0]]}, {"seed": ["0"]}, {"seed": [0.5]}, {"seed": [True]}])
def test_seed_that_is_no_number(comparison, axes):
    tuned = {"tune": {"lambda": [1]}, "settings": {"model.init_args.lambda_reg": "$lambda"}}
    for changes in ({"axes": axes}, {"methods": {"asft": tuned}, "tuning": {"axes": axes}}):
        with pytest.raises(ConfigurationError, match="seeds must be whole numbers, got "):
            comparison(**changes)


@pytest.mark.parametrize("ratio", ["0.1", [0.1], None, -0.1, 10, 10**400, float("nan")])
def test_poison_ratio_that_is_none(comparison, ratio):
    for axes in ("axes", "at"):
        around = {"axes": {"poison_ratio": [0.3]}, "at": {}} | {axes: {"poison_ratio": [ratio]}}
        with pytest.raises(ConfigurationError, match=r"poison ratios must lie in 0\.\.1, got "):
            comparison(around=around)


@pytest.mark.parametrize("margin", [-1, 101, 10**400, float("nan"), float("inf")])
def test_margin_that_is_none(comparison, margin):
    with pytest.raises(ConfigurationError, match=r"tuning\.margin must lie in 0\.\.100 points, got "):
        comparison(tuning={"axes": {"seed": [100]}, "margin": margin})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"configs": [1]}, "configs must be a str, got 1"),
        ({"methods": {"sft": {"configs": ["x", None]}}}, "methods.sft: configs must be a str, got None"),
        ({"settings": {1: 2}}, "settings must have names of text, got 1"),
        ({"methods": {7: {}}}, "methods must have names of text, got 7"),
        ({"axes": {1: [2]}}, "axes must have names of text, got 1"),
    ],
)
def test_part_of_another_kind(comparison, changes, rule):
    with pytest.raises(ConfigurationError, match=rule):
        comparison(**changes)
