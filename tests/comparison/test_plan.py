"""From a comparison to its runs; no run is started."""

import pytest

from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.runner import with_needs
from asft_lightning.errors import ConfigurationError


def test_runs_are_the_product_of_the_axes_that_a_method_names(comparison):
    axes = {"poison_ratio": [0, 0.1], "lambda": [1, 3], "seed": [0, 1]}
    methods = {"sft": {}, "asft": {"settings": {"model.init_args.lambda_reg": "$lambda"}}}
    plan = Plan(comparison(axes=axes, methods=methods))
    sft, asft = plan.reported("sft", {}), plan.reported("asft", {})

    assert [run.axes for run in sft] == [{"poison_ratio": p, "seed": s} for s in (0, 1) for p in (0, 0.1)]
    assert len(asft) == 8
    assert len({run.folder for run in sft + asft}) == 12
    assert asft[-1].settings == {
        "seed_everything": 1, "data.init_args.poison_ratio": 0.1, "model.init_args.lambda_reg": 3,
    }  # fmt: skip


def test_around_varies_one_factor_at_a_time(comparison):
    axes = {"poison_ratio": [0, 0.1], "rank": [8], "lr": [1e-3], "seed": [0, 1]}
    common = {"seed_everything": "$seed", "data.init_args.poison_ratio": "$poison_ratio"}
    methods = {"sft": {"settings": {"rank": "$rank", "lr": "$lr"}}, "no_rank": {"settings": {"lr": "$lr"}}}
    around = {"axes": {"rank": [4, 32], "lr": [1e-2]}, "at": {"poison_ratio": [0.1]}}
    plan = Plan(comparison(axes=axes, settings=common, methods=methods, around=around))

    found = [tuple(run.axes[name] for name in ("poison_ratio", "rank", "lr", "seed")) for run in plan.reported("sft", {})]
    center = [(p, 8, 1e-3, seed) for seed in (0, 1) for p in (0, 0.1)]
    assert found == [
        *center, (0.1, 4, 1e-3, 0), (0.1, 32, 1e-3, 0), (0.1, 4, 1e-3, 1), (0.1, 32, 1e-3, 1),
        (0.1, 8, 1e-2, 0), (0.1, 8, 1e-2, 1),
    ]  # fmt: skip
    assert len(plan.reported("no_rank", {})) == 4 + 2


def test_arguments_are_those_of_fit(comparison, tmp_path):
    callbacks = [{"class_path": "A"}]
    settings = {"seed_everything": "$seed", "data.init_args.poison_ratio": "$poison_ratio", "trainer.callbacks+": callbacks}
    own = {"trainer.callbacks+": [{"class_path": "B", "init_args": {"x": "$x"}}], "template.system": "be kind"}
    plan = Plan(comparison(settings=settings, methods={"sft": {"settings": own, "axes": {"x": [None, True]}}}))
    run = plan.reported("sft", {})[0]

    assert run.arguments == [
        "fit",
        f"--config={tmp_path / 'common.yaml'}",
        "--seed_everything=0",
        "--data.init_args.poison_ratio=0",
        '--trainer.callbacks+=[{"class_path": "A"}, {"class_path": "B", "init_args": {"x": null}}]',
        "--template.system=be kind",
        f"--trainer.default_root_dir={run.folder}",
    ]
    assert run.folder.parent == tmp_path / "out" / "runs"


def test_config_files_are_an_axis(comparison, tmp_path):
    """As attacks are: each run has its own, and a first step, which says its own rows, has none."""
    for name, rows in (("none", 8), ("backdoor", 9)):
        (tmp_path / f"{name}.yaml").write_text(f"data: {{init_args: {{num_rows: {rows}}}}}")
    files = [str(tmp_path / f"{name}.yaml") for name in ("none", "backdoor")]
    first = {"configs": [files[0]], "settings": {"data.init_args.poison_ratio": 1}}
    common = {"configs": [str(tmp_path / "common.yaml"), "$attack"], "settings": {"seed_everything": "$seed"}}
    plan = Plan(comparison(**common, axes={"attack": files, "seed": [0]}, methods={"alt": {"first": first}, "sft": {}}))
    runs = plan.reported("alt", {})
    assert [run.configs[1:] for run in runs] == [[file] for file in files] and len({run.key for run in runs}) == 2
    assert [run.first.configs[1:] for run in runs] == [[files[0]]] * 2 and runs[0].first.key == runs[1].first.key
    assert [run.axes["attack"] for run in plan.reported("sft", {})] == files
    for axes, message in (
        ({"seed": [0]}, r"\$attack must stand for an axis"),
        ({"attack": ["absent.yaml"], "seed": [0]}, r"absent.yaml"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Plan(comparison(**common, axes=axes, methods={"sft": {}}))


def test_key_follows_the_content(write, tmp_path):
    def keys():
        from asft_lightning.comparison import plan

        plan._content.cache_clear()
        return {run.name: run.key for name in ("sft", "asft") for run in Plan(load_comparison(write())).reported(name, {})}

    before = keys()
    (tmp_path / "common.yaml").write_text("# a comment\ntrainer:\n  max_epochs: 1\n")
    assert keys() == before
    (tmp_path / "common.yaml").write_text("trainer: {max_epochs: 2}")
    assert not set(keys().values()) & set(before.values())


def test_first_step_is_shared_by_what_it_does_not_depend_on(comparison, tmp_path):
    alt = {
        "first": {"settings": {"data.init_args.poison_ratio": 1}},
        "settings": {"model.init_args.anchors": [{"adapter": "$first"}]},
    }
    runs = Plan(comparison(methods={"sft": {}, "alt": alt})).reported("alt", {})
    firsts = {run.first.name: run.first for run in runs}

    assert len(runs) == 4
    assert [first.axes for first in firsts.values()] == [{"seed": 0}, {"seed": 1}]
    assert runs[0].resolved["model.init_args.anchors"] == [{"adapter": str(runs[0].first.folder / "adapter")}]
    assert runs[0].first.arguments[2:4] == ["--seed_everything=0", "--data.init_args.poison_ratio=1"]


SAFE_LORA = {"after": "sft", "settings": {"trainer.callbacks+": ["$layers"]}, "tune": {"layers": [1, 2]}}


def test_what_comes_after_training_goes_on_from_the_run_at_the_same_axes(comparison):
    """Of each seed and poison ratio one run is trained, whatever is done to it then; also where that is tuned."""
    sft = {"settings": {"trainer.max_epochs": 3, "trainer.callbacks+": ["a"]}}
    merge = {"after": "sft", "first": {}, "settings": {"trainer.callbacks+": ["$first"]}}
    plan = Plan(comparison(tuning=TUNING, methods={"sft": sft, "safe_lora": SAFE_LORA, "merge": merge}))
    trained = {run.name: run for run in plan.reported("sft", {})}
    runs = plan.reported("safe_lora", {"layers": 2})
    assert [run.trained.name for run in runs] == list(trained) and len({run.key for run in runs}) == 4
    for run in runs:
        file = run.trained.folder / "checkpoints" / "last.ckpt"
        assert f"--ckpt_path={file}" in run.arguments and run.settings["trainer.max_epochs"] == 3
        assert not any("ckpt_path" in argument for argument in run.trained.arguments)
    (tuning,) = plan.tuning("safe_lora", {"layers": 1})
    assert (tuning.trained.axes, tuning.trained.method) == ({"poison_ratio": 0.1, "seed": 7}, "sft")
    (one, *_) = plan.reported("merge", {})
    assert [run.method for run in one.needs] == ["first", "sft"]
    assert one.resolved["trainer.callbacks+"] == ["a", str(one.first.folder / "adapter")]


def test_an_attacker_trains_what_others_go_on_from(comparison):
    search = {"settings": {"lr": "$lr"}, "tries": {"lr": [1, 2]}, "axes": {"poison_ratio": [0.1], "seed": [7]}}
    methods = {"sft": {}, "safe_lora": {"after": "sft"}}
    plan = Plan(comparison(search=search | {"reference": "sft"}, methods=methods))
    (run,) = plan.searching("safe_lora", {"lr": 2})
    assert run.trained.name == plan.searching("sft", {"lr": 2})[0].name and run.trained.settings["lr"] == 2


def test_a_config_file_that_would_train_otherwise_comes_after_nothing(comparison, tmp_path):
    for name, text in (
        ("safe", "model: {class_path: A}\ntrainer: {callbacks+: [{x: 1}]}"),
        ("longer", "trainer: {max_epochs: 9}"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    methods = {name: {"after": "sft", "configs": [str(tmp_path / f"{name}.yaml")]} for name in ("safe", "longer")}
    assert len(Plan(comparison(methods={"sft": {}, "safe": methods["safe"]})).reported("safe", {})) == 4
    with pytest.raises(ConfigurationError, match=r"longer goes on from where sft ends, .* got trainer\.max_epochs"):
        Plan(comparison(methods={"sft": {}, "longer": methods["longer"]}))


def test_runs_are_begun_after_what_they_need_and_no_later(comparison):
    """By seeds, as the report has them, so that a broken-off comparison has whole seeds."""
    merge = {"after": "sft", "first": {}, "settings": {"trainer.callbacks": ["$first"]}}
    plan = Plan(comparison(methods={"sft": {}, "merge": merge}, axes={"poison_ratio": [0.1], "seed": [0, 1]}))
    runs = [run for name in ("merge", "sft") for run in plan.reported(name, {})]
    names = [(run.method, run.axes["seed"]) for run in with_needs(sorted(runs, key=lambda run: run.axes["seed"]))]
    assert names == [(name, seed) for seed in (0, 1) for name in ("first", "sft", "merge")]


TUNING = {"axes": {"seed": [7], "poison_ratio": [0.1]}, "budget": 2}


def test_tuning_runs_are_at_the_tuning_axes(comparison):
    tuned = {"settings": {"model.init_args.lambda_reg": "$lambda"}, "tune": {"lambda": [1, 3]}}
    plan = Plan(comparison(tuning=TUNING, methods={"asft": tuned}))

    assert plan.candidates("asft") == [{"lambda": 1}, {"lambda": 3}]
    assert [run.axes for run in plan.tuning("asft", {"lambda": 3})] == [{"seed": 7, "poison_ratio": 0.1, "lambda": 3}]
    assert len(plan.reported("asft", {"lambda": 3})) == 4


LAMBDA = {"settings": {"model.init_args.lambda_reg": "$lambda"}}
MISUSES = {
    "methods.a may have configs, settings, axes, tune, first, after, got 'confgs'": {"methods": {"a": {"confgs": []}}},
    "must be a mapping, got 3": {"methods": {"a": {"first": 3}}},
    "a.after must be a method of this comparison that trains, .* got 'b'; there are sft": {
        "methods": {"sft": {}, "a": {"after": "b"}},
    },
    "a goes on from where sft ends, .* got model.init_args.lambda_reg": {
        "methods": {"sft": {}, "a": {"after": "sft", "settings": {"model.init_args.lambda_reg": 1}}},
    },
    r"a must vary along each axis of sft, which it goes on from, and sets a value in place of \$system": {
        "axes": {"poison_ratio": [0], "seed": [0], "system": ["x", "y"]},
        "methods": {"sft": {"settings": {"template.safety_prompt": "$system"}},
                    "a": {"after": "sft", "settings": {"template.safety_prompt": "z"}}},
    },
    "a.after must be .* got 'a'; there are none": {"methods": {"a": {"after": "a"}}},
    "a.after must be .* got 'b'; there are sft": {"methods": {"sft": {}, "b": {"after": "sft"}, "a": {"after": "b"}}},
    "a.after must be .* without tune or axes of its own, got 'b'": {
        "methods": {"b": LAMBDA | {"axes": {"lambda": [1]}}, "a": {"after": "b"}},
    },
    "a has one beside that of b, which it comes after": {"methods": {"b": {"first": {}}, "a": {"after": "b", "first": {}}}},
    "goes on from the checkpoint that sft ends with, which is to write none": {
        "methods": {"sft": {"settings": {"trainer.enable_checkpointing": False}}, "a": {"after": "sft"}},
    },
    "axes.seed must be a list, got 3": {"axes": {"seed": 3}},
    "needs methods, got none": {"methods": {}},
    r"axes must have `seed`, over which means are taken, got \['poison_ratio'\]": {"axes": {"poison_ratio": [0]}},
    "jobs and threads must be 1 or more, got 0 and 1": {"jobs": 0},
    "jobs must be a int, got 'two'": {"jobs": "two"},
    r"an axis needs values, each once, and axes.seed has \[0, 0\]": {"axes": {"seed": [0, 0], "poison_ratio": [0]}},
    "'seed' of a has several among axes, a.axes and a.tune": {"methods": {"a": {"axes": {"seed": [1]}}}},
    "a is to be tuned, and there is no `tuning`": {"methods": {"a": LAMBDA | {"tune": {"lambda": [1]}}}},
    r"must not see the reported seeds, and both have \[1\]": {
        "methods": {"a": LAMBDA | {"tune": {"lambda": [1]}}}, "tuning": {"axes": {"seed": [1, 2]}},
    },
    r"tuned over 2 settings \(tuning.budget\), and a has 3": {
        "methods": {"a": LAMBDA | {"tune": {"lambda": [1, 2, 3]}}}, "tuning": TUNING,
    },
    r"\$lambda must stand for an axis, and there are poison_ratio, seed": {"methods": {"a": LAMBDA}},
    r"a setting must name the axis \$mu, and none does": {"methods": {"a": {"axes": {"mu": [1]}}}},
    r"a setting must name the axis \$seed, and none does\. .*seed_everything": {"settings": {}},
    r"every axis must be named by a setting, as \$rows": {"axes": {"seed": [0], "poison_ratio": [0], "rows": [1]},
                                                        "methods": {"sft": {}}},
    r"default_method must be one of the methods, sft, asft, got 'b'": {"axes": {"seed": [0]}, "default_method": "b"},
    "around varies axes, which are seed, got 'rank'": {"axes": {"seed": [0]}, "around": {"axes": {"rank": [4]}}},
    r"around needs further values of seed, and has \[0, 3\] beside \[0\]": {
        "axes": {"seed": [0]}, "around": {"axes": {"seed": [0, 3]}},
    },
    "or one of this package's own, and 'absent.yaml' is neither": {"methods": {"a": {"configs": ["absent.yaml"]}}},
    r"first step cannot depend on what is tuned after it, and one names \$lambda": {
        "methods": {"a": LAMBDA | {"tune": {"lambda": [1]}, "first": LAMBDA}}, "tuning": TUNING,
    },
}  # fmt: skip


@pytest.mark.parametrize(("message", "changes"), MISUSES.items(), ids=range(len(MISUSES)))
def test_misuse(comparison, message, changes):
    with pytest.raises(ConfigurationError, match=message):
        Plan(comparison(**changes))


def test_tuning_must_say_where(comparison):
    tuned = LAMBDA | {"tune": {"lambda": [1]}}
    plan = Plan(comparison(methods={"a": tuned}, tuning={"axes": {"seed": [7]}}))
    with pytest.raises(ConfigurationError, match=r"tuning.axes must say at which poison_ratio a is run, and has only \['se"):
        plan.tuning("a", {"lambda": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [("output: [", "cannot be read as YAML"), ("- a", "must be a mapping, got"), ("output: x", "must have 'methods'")],
)
def test_file_that_is_no_comparison(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_comparison(tmp_path / "c.yaml")


def test_file_that_is_absent(tmp_path):
    with pytest.raises(ConfigurationError, match=r"must be a YAML file or one of .*, and '.*nowhere.yaml' is neither"):
        load_comparison(tmp_path / "nowhere.yaml")


SEARCH = {
    "settings": {"trainer.max_epochs": "$epochs", "data.init_args.poison_ratio": "$poison_ratio"},
    "tries": {"epochs": [1, 2, 3], "poison_ratio": [0.1, 0.2]},
    "axes": {"seed": [7, 8]},
    "reference": "sft",
}


def test_an_attacker_trains_a_method_as_it_likes(comparison):
    """Its settings come over the method's own, on seeds of its own; what is reported of it is on the reported ones."""
    given = comparison(search=SEARCH)
    plan, attempt = Plan(given), {"lambda": 1, "epochs": 3, "poison_ratio": 0.2}
    runs = plan.searching("asft", attempt)
    assert [run.axes for run in runs] == [{**attempt, "seed": 7}, {**attempt, "seed": 8}]
    assert runs[0].settings["data.init_args.poison_ratio"] == 0.2 and runs[0].settings["model.init_args.lambda_reg"] == 1
    assert runs[0].settings["trainer.max_epochs"] == 3
    assert [run.axes["seed"] for run in plan.searching("asft", attempt, reported=True)] == [0, 1]
    assert "epochs" not in plan.reported("asft", {})[0].axes
    assert [len(given.search.attempts), given.search.attempts[0]] == [6, {"epochs": 1, "poison_ratio": 0.1}]


def test_of_more_than_its_budget_an_attacker_draws(comparison):
    drawn = [comparison(search={**SEARCH, "budget": budget}).search.attempts for budget in (3, 3, 99)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3 and all(attempt in drawn[2] for attempt in drawn[0])


@pytest.mark.parametrize(
    ("message", "changes"),
    {
        "search.tries must name what is tried, each with values, got {}": {"tries": {}},
        r"got \{'epochs': \[\]\}": {"tries": {"epochs": []}},
        "search.budget must be 1 or more, .* got 0 and 6": {"budget": 0},
        "1000 settings at most, got 8 and 2000": {"tries": {"epochs": [*range(1000)], "poison_ratio": [0.1, 0.2]}},
        "search.reference must be one of the methods, sft, asft, got 'none'": {"reference": "none"},
        r"search must not see the reported seeds, and both have \[1\]": {"axes": {"seed": [1]}},
        r"each once, and search.axes.seed has \[\]": {"axes": {"seed": []}},
        r"each once, and search.tries.epochs has \[1, 1\]": {"tries": {"epochs": [1, 1]}},
        r"search.margin must lie in 0\.\.100 points, got -1": {"margin": -1},
        r"poison ratios must lie in 0\.\.1, got 2": {"tries": {"epochs": [1], "poison_ratio": [2]}},
        r"a setting must name the axis \$rows": {"tries": {**SEARCH["tries"], "rows": [1]}},
        r"\$epochs must stand for an axis": {"tries": {"poison_ratio": [0.1]}},
    }.items(),
)  # fmt: skip
def test_search_that_cannot_be(comparison, message, changes):
    with pytest.raises(ConfigurationError, match=message):
        Plan(comparison(search={**SEARCH, **changes}))


def test_what_is_tried_tells_no_variants_apart(comparison):
    methods = {"sft": {}, "a": {"settings": {"model.init_args.lambda_reg": "$epochs"}, "axes": {"epochs": [1, 2]}}}
    with pytest.raises(ConfigurationError, match=r"variants of a method apart, and 'epochs' of a is among search\.tries"):
        comparison(search=SEARCH, methods=methods)


def test_search_must_say_where(comparison):
    plan = Plan(comparison(search={**SEARCH, "axes": {}}))
    with pytest.raises(ConfigurationError, match=r"search.axes must say at which seed sft is run, and has only \[\]"):
        plan.searching("sft", {"epochs": 1, "poison_ratio": 0.1})
