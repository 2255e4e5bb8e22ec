"""Every config of the package: by itself within a run, and in combination."""

import itertools

import pytest
import yaml
from kit.parsing import fit_parser, parsed

from asft_lightning import AsFT, FullFineTuner, JudgeTrainer, Lisa, LoRAFineTuner, MixtureDataModule
from asft_lightning.callbacks import ScoringCallback
from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.plan import Plan
from asft_lightning.evaluation.judges import BEAVERTAILS_CATEGORIES
from asft_lightning.runtime.named_configs import about, config_names, find_config

COMPARISONS = [name for name in config_names() if name.startswith("compare/")]
CONFIGS = [name for name in config_names() if name not in COMPARISONS]
BEYOND = ("activation", "activation-both", "answers", "drift-budget", "protect")
"""Methods that the paper does not have."""
RIVALS = ("constrained-sft", "ptst", "safe-merge", "safegrad", "safety-vector", "salora", "sbr", "sppft")
"""Other papers' methods, since, beside them."""
FULL = ("full-asft", "full-sft")
"""Methods that train the weights themselves."""
KINDS = ("models", "data", "mixtures", "methods", "scoring", "trainer")
USUAL = ("models/llama-2-7b-chat", "data/agnews", "methods/asft", "scoring/refusals", "trainer/single")


def of(kind):
    return [name for name in CONFIGS if name.startswith(f"{kind}/")]


def stem(name):
    return name.rpartition("/")[2]


def run_with(name):
    """The configs of a whole run of which this is one."""
    kind = name.partition("/")[0]
    if kind not in KINDS:
        return [name]
    usual = ("models/sandbox", "data/sandbox", "methods/asft", "trainer/cpu") if stem(name) == "sandbox" else USUAL
    usual = [*usual, "trainer/single"] if name == "trainer/resumable" else usual  # which stands beside another
    rest = [other for other in usual if not other.startswith(f"{kind}/") or name == "trainer/resumable"]
    return sorted([*rest, name], key=lambda other: KINDS.index(other.partition("/")[0]))


@pytest.fixture(scope="module")
def parser():
    return fit_parser()


def test_there_are_configs_to_check():
    assert [len(of(kind)) > 1 for kind in KINDS] == [True] * len(KINDS)
    assert "quickstart" in CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_a_run_with_it_parses(parser, name):
    config = parsed(parser, *run_with(name))

    assert config.pretrained.aligned
    assert config.model.init_args.pretrained == config.pretrained
    for shared in ("pretrained", "template"):  # a judge's data needs neither
        for part in (config.model.init_args, config.data.init_args):
            assert part.get(shared, config[shared]) == config[shared]
    assert ("template" in config.data.init_args) == (name != "judge")


def test_the_judges_labels_are_beavertails(parser):
    config = parsed(parser, "judge")
    assert config.data.init_args.labels == list(BEAVERTAILS_CATEGORIES)
    assert type(parser.instantiate(config).model) is JudgeTrainer


@pytest.mark.parametrize("name", config_names())
def test_it_says_what_it_is(name):
    assert about(name)[0].isupper() and len(about(name)) > 20
    assert all(len(line) <= 160 for line in find_config(name).read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("data", of("data"))
def test_combinations_in_any_order(parser, data):
    """Each data set with each method, in orders and with models that go round."""
    orders, models = itertools.cycle(itertools.permutations(range(3))), itertools.cycle(of("models"))
    for method, order, model in zip(of("methods"), orders, models, strict=False):
        names = [model, data, method]
        config = parsed(parser, *(names[i] for i in order))
        contents = [yaml.safe_load(find_config(name).read_text(encoding="utf-8")) for name in names]

        assert config.pretrained.aligned == contents[0]["pretrained"]["aligned"]
        assert config.data.init_args.benign.path == contents[1]["data"]["init_args"]["benign"]["path"]
        assert config.model.class_path == contents[2]["model"]["class_path"]


@pytest.mark.parametrize("data", of("data"))
def test_data_of_every_config_is_built(parser, data):
    """Constructors read nothing: no network is needed."""
    built = parser.instantiate(parsed(parser, of("models")[0], data, "methods/sft"))

    assert type(built.data) is MixtureDataModule
    assert (built.data.num_rows, built.data.poison_ratio) == (1000, 0.1)
    assert type(built.model) is LoRAFineTuner
    assert built.model.pretrained == built.data.pretrained == built.pretrained
    assert any(isinstance(callback, ScoringCallback) for callback in built.trainer.callbacks)


@pytest.mark.parametrize("method", of("methods"))
def test_method_of_every_config_is_built(parser, method):
    built = parser.instantiate(parsed(parser, of("models")[-1], "data/sandbox", method)).model
    paper = ("asft", "asft-subspace", "asft-alt", "shrinkage")
    assert isinstance(built, AsFT) == (stem(method) in (*paper, *BEYOND, "safegrad"))
    assert isinstance(built, FullFineTuner) == (stem(method) in FULL)
    assert isinstance(built, Lisa) == stem(method).startswith("lisa")
    assert stem(method) not in paper or (built.lambda_reg, built.drift_budget) == (1.0, None)


def test_settings_that_are_mappings_are_taken_from_the_command_line(parser):
    """As comparisons give them."""
    lora = '--model.init_args.lora={"r": 3, "lora_alpha": 6, "target_modules": ["q_proj"]}'
    for method in of("methods"):
        if stem(method) in FULL:
            continue
        config = parsed(parser, "models/sandbox", "data/sandbox", method, settings=[lora])
        assert parser.instantiate(config).model.lora.r == 3


@pytest.mark.parametrize("trainer", of("trainer"))
def test_callbacks_of_all_files_come_together(parser, trainer):
    names = ["data/agnews", trainer, "methods/asft", "scoring/paper"]
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 2, 0)):
        config = parsed(parser, of("models")[0], *(names[i] for i in order))
        callbacks = sorted(callback.class_path.rsplit(".", 1)[-1] for callback in config.trainer.callbacks)

        saver = "ModelCheckpoint" if "resumable" in trainer else "AdapterCheckpoint"
        assert callbacks == sorted([saver, "SafetyEvaluation", "UtilityEvaluation"])


@pytest.mark.parametrize("scoring", of("scoring"))
def test_scoring_of_every_config_is_built(parser, scoring):
    """Also what it loads: judges are built without their models."""
    built = parser.instantiate(parsed(parser, of("models")[0], "data/agnews", scoring, "methods/sft"))
    scorers = [callback for callback in built.trainer.callbacks if isinstance(callback, ScoringCallback)]

    assert len({scorer.label for scorer in scorers}) == len(scorers) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(parser, name):
    """The first and the last run of each method parse, and no two runs are the same."""
    comparison = load_comparison(name)
    plan = Plan(comparison)
    every = []
    for method in comparison.methods:
        candidates = plan.candidates(method)
        runs = [run for setting in candidates or [{}] for run in plan.reported(method, setting)]
        every += runs + [run for setting in candidates for run in plan.tuning(method, setting)]
        attempts = comparison.search.attempts if comparison.search else []
        searching = [run for attempt in attempts for run in plan.searching(method, {**(candidates or [{}])[0], **attempt})]
        every += searching
        for run in [some for some in (runs[0].first, runs[0], runs[-1], *searching[-1:]) if some is not None]:
            config = parsed(parser, settings=run.arguments[1:])
            assert (config.seed_everything, config.trainer.default_root_dir) == (run.axes["seed"], str(run.folder))
            scorers = [callback.class_path for callback in config.trainer.callbacks]
            assert "asft_lightning.SafetyEvaluation" in scorers
            assert {"asft_lightning.UtilityEvaluation", "asft_lightning.RubricEvaluation"} & set(scorers)
    assert len({run.folder for run in every}) == len(every)


def test_comparisons_of_the_sandbox_have_every_method():
    methods = load_comparison("compare/sandbox").methods
    of_lora = [name for name in of("methods") if stem(name) not in FULL]
    every, beyond, rivals = ({stem(name).replace("-", "_") for name in names} for names in (of_lora, BEYOND, RIVALS))
    assert set(load_comparison("compare/field").methods) == every
    assert beyond <= set(load_comparison("compare/beyond").methods)
    known = every - beyond - rivals
    assert {"sft", "safe_lora", "safe_instr", "bea", "lisa_base", "lisa_aligned", "asft"} <= known == set(methods)
