"""A sandbox of a few training steps: everything but the skill."""

import pytest

from asft_lightning.sandbox import Recipe, Stage, build_sandbox

SHARES = {"how_to": 0.5, "unsafe": 0.25, "refusals": 0.25}
QUICK = Recipe(
    hidden_size=16,
    intermediate_size=16,
    layers=1,
    heads=2,
    benign=100,
    base=Stage(3, 1e-3, SHARES, 4, 1),
    aligned=Stage(2, 1e-3, SHARES, 4, 1),
)


@pytest.fixture(scope="session")
def recipe():
    return QUICK


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "quick"
    build_sandbox(folder, recipe=QUICK)
    return folder
