"""What the tests of comparisons share: comparisons in files, and results made by hand."""

import pytest
import yaml

from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.results import Result


@pytest.fixture
def write(tmp_path):
    """Write a comparison of two methods, changed as asked; returns its file."""
    (tmp_path / "common.yaml").write_text("trainer: {max_epochs: 1}")

    def written(**changes):
        content = {
            "output": str(tmp_path / "out"),
            "configs": [str(tmp_path / "common.yaml")],
            "settings": {"seed_everything": "$seed", "data.init_args.poison_ratio": "$poison_ratio"},
            "axes": {"poison_ratio": [0, 0.1], "seed": [0, 1]},
            "methods": {"sft": {}, "asft": {"settings": {"model.init_args.lambda_reg": "$lambda"}, "axes": {"lambda": [1]}}},
        }
        file = tmp_path / "comparison.yaml"
        file.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return file

    return written


@pytest.fixture
def comparison(write):
    return lambda **changes: load_comparison(write(**changes))


@pytest.fixture
def result():
    """A run that was not run."""

    def made(method, hs, fa, seed=0, poison_ratio=0.1, steps=None, folder="", **axes):
        scores = {"harmful_score": hs, "accuracy": fa}
        every = {"poison_ratio": poison_ratio, "seed": seed, **axes}
        costs = {"training_seconds": 2.0 + seed, "peak_memory_mib": 500.0}
        return Result(method, every, scores, {"harmful_score": steps} if steps else {}, costs, {}, folder)

    return made
