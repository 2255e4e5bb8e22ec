"""The lowest versions that are promised are those that CI installs beside the newest."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [Requirement(line) for line in [*project["dependencies"], *extras["4bit"], *extras["endpoint"], *extras["plot"]]]


def pinned(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line[:1].isalpha()]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_lowest_version_is_the_promised_one(requirement):
    """But of torch, whose wheels of that age come with gigabytes of CUDA."""
    (lowest,) = (specifier.version for specifier in requirement.specifier if specifier.operator == ">=")
    tested = pinned("constraints-lowest.txt")[canonicalize_name(requirement.name)]
    if requirement.name == "torch":
        assert Version(tested) >= Version(lowest)
    else:
        assert Version(tested) == Version(lowest)
    assert Version(pinned("constraints.txt")[canonicalize_name(requirement.name)]) >= Version(lowest)
