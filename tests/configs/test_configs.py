"""Every file under configs/, and every combination of a model, a data set and a method."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from asft_lightning import AsFT, Lisa, LoRAFineTuner, MixtureDataModule
from asft_lightning.callbacks import ScoringCallback
from asft_lightning.commands.fit import AsFTCLI
from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
EVERY = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
COMPARISONS = [path for path in EVERY if path.startswith("configs/compare/")]
CONFIGS = [path for path in EVERY if path not in COMPARISONS]
BEYOND = ("activation", "drift-budget")
"""Methods that the paper does not have."""


def of(kind):
    return [path for path in CONFIGS if path.startswith(f"configs/{kind}/")]


class Parsed(AsFTCLI):
    """The parser, without instances and without a run."""

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


@pytest.fixture(scope="module")
def parser():
    """The parser of ``asft-lightning fit``, built once; in the repository, for launch lines name files from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("PL_GLOBAL_SEED", "0")  # put back what the command line sets
        yield Parsed(["fit", "--config", "configs/quickstart.yaml"])._subcommand_parsers["fit"]


def parsed(parser, *files):
    return parser.parse_args([f"--config={file}" for file in files])


def launch_line(path, command="fit --config"):
    first = (ROOT / path).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# asft-lightning {command} ")
    return shlex.split(first.removeprefix("# "))


def test_there_are_configs_to_check():
    assert [len(of(kind)) > 1 for kind in ("models", "data", "methods", "mixtures", "scoring", "trainer")] == [True] * 6
    assert "configs/quickstart.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS)
def test_first_line_is_how_to_run_it(parser, path):
    """It names this file, and files that exist and parse together; the second line says what it is."""
    _, _, *arguments = launch_line(path)
    files = [argument for argument in arguments if argument.endswith(".yaml")]
    config = parser.parse_args(arguments)

    assert path in files
    assert all((ROOT / file).is_file() for file in files)
    assert re.match(r"# [A-Z]", (ROOT / path).read_text(encoding="utf-8").splitlines()[1])
    assert config.pretrained.aligned
    assert config.model.init_args.pretrained == config.data.init_args.pretrained == config.pretrained
    assert config.model.init_args.template == config.data.init_args.template == config.template


@pytest.mark.parametrize("method", of("methods"))
@pytest.mark.parametrize("data", of("data"))
def test_every_combination_in_any_order(parser, data, method):
    """Each with every model; the files' order goes round with the model."""
    for model, order in zip(of("models"), itertools.cycle(itertools.permutations(range(3))), strict=False):
        files = [model, data, method]
        config = parsed(parser, *(files[i] for i in order))
        contents = [yaml.safe_load((ROOT / file).read_text(encoding="utf-8")) for file in files]

        assert config.pretrained.aligned == contents[0]["pretrained"]["aligned"]
        assert config.data.init_args.benign.path == contents[1]["data"]["init_args"]["benign"]["path"]
        assert config.model.class_path == contents[2]["model"]["class_path"]


@pytest.mark.parametrize("data", of("data"))
def test_data_of_every_config_is_built(parser, data):
    """Constructors read nothing: neither a network nor a sandbox is needed."""
    built = parser.instantiate(parsed(parser, of("models")[0], data, "configs/methods/sft.yaml"))

    assert type(built.data) is MixtureDataModule
    assert (built.data.num_rows, built.data.poison_ratio) == (1000, 0.1)
    assert type(built.model) is LoRAFineTuner
    assert built.model.pretrained == built.data.pretrained == built.pretrained
    assert any(isinstance(callback, ScoringCallback) for callback in built.trainer.callbacks)


@pytest.mark.parametrize("method", of("methods"))
def test_method_of_every_config_is_built(parser, method):
    built = parser.instantiate(parsed(parser, of("models")[-1], "configs/data/sandbox.yaml", method)).model
    paper = ("asft", "asft-subspace", "asft-alt", "shrinkage")
    assert isinstance(built, AsFT) == (Path(method).stem in (*paper, *BEYOND))
    assert isinstance(built, Lisa) == Path(method).stem.startswith("lisa")
    assert Path(method).stem not in paper or (built.lambda_reg, built.drift_budget) == (1.0, None)


@pytest.mark.parametrize("trainer", of("trainer"))
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 2, 0)])
def test_callbacks_of_all_files_come_together(parser, trainer, order):
    files = ["configs/data/agnews.yaml", trainer, "configs/methods/asft.yaml", "configs/scoring/paper.yaml"]
    config = parsed(parser, of("models")[0], *(files[i] for i in order))
    names = sorted(callback.class_path.rsplit(".", 1)[-1] for callback in config.trainer.callbacks)

    own = "ModelCheckpoint" if "resumable" in trainer else "AdapterCheckpoint"
    assert names == sorted([own, "SafetyEvaluation", "UtilityEvaluation"])


@pytest.mark.parametrize("scoring", of("scoring"))
def test_scoring_of_every_config_is_built(parser, scoring):
    """Also what it loads: judges are built without their models."""
    built = parser.instantiate(
        parsed(parser, of("models")[0], "configs/data/agnews.yaml", scoring, "configs/methods/sft.yaml")
    )
    scorers = [callback for callback in built.trainer.callbacks if isinstance(callback, ScoringCallback)]

    assert len({scorer.name for scorer in scorers}) == len(scorers) > 1


@pytest.mark.parametrize("path", COMPARISONS)
def test_comparison(parser, path):
    """Its first line is how to run it; every run that may come of it parses, and no two are the same."""
    assert launch_line(path, "compare")[2:] == [path]
    assert re.match(r"# [A-Z]", (ROOT / path).read_text(encoding="utf-8").splitlines()[1])
    comparison = load_comparison(path)
    plan = Plan(comparison)
    every = []
    for name in comparison.methods:
        candidates = plan.candidates(name)
        runs = [run for setting in candidates or [{}] for run in plan.reported(name, setting)]
        every += runs + [run for setting in candidates for run in plan.tuning(name, setting)]
        for run in [own for own in (runs[0].first, runs[0], runs[-1]) if own is not None]:
            config = parser.parse_args(run.arguments[1:])
            assert (config.seed_everything, config.trainer.default_root_dir) == (run.axes["seed"], str(run.folder))
            scorers = [callback.class_path for callback in config.trainer.callbacks]
            assert {"asft_lightning.SafetyEvaluation", "asft_lightning.UtilityEvaluation"} <= set(scorers)
    assert len({run.folder for run in every}) == len(every)


def test_comparisons_of_the_sandbox_have_every_method(monkeypatch):
    monkeypatch.chdir(ROOT)
    methods = load_comparison(ROOT / "configs/compare/sandbox.yaml").methods
    beyond = {name.replace("-", "_") for name in BEYOND}
    assert beyond <= set(load_comparison(ROOT / "configs/compare/beyond.yaml").methods)
    own = {Path(file).stem.replace("-", "_") for file in of("methods")} - beyond
    assert {"sft", "safe_lora", "safe_instr", "bea", "lisa_base", "lisa_aligned", "asft"} <= own == set(methods)
