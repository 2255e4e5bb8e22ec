"""The shipped pair: whole, what its record says, and made by the recipe that is in the code."""

import json
import shutil
from dataclasses import asdict

import pytest

from asft_lightning.errors import ConfigurationError
from asft_lightning.sandbox import Recipe, is_shipped, sandbox_path
from asft_lightning.sandbox.parts import FROZEN, PARTS, file_hashes, shipped_record
from asft_lightning.sandbox.rows import make_corpus


def test_every_file_is_what_the_record_says():
    assert file_hashes(FROZEN) == shipped_record()["sha256"]
    assert is_shipped(FROZEN)


def test_every_part_is_there():
    assert all(sandbox_path(part).exists() for part in PARTS)


def test_the_recipe_is_that_of_the_code():
    """Who changes one must ship another pair."""
    assert shipped_record()["recipe"] == asdict(Recipe())


def test_the_rows_follow_from_recipe_and_seed():
    for name, lines in make_corpus(Recipe(), shipped_record()["seed"]).files.items():
        assert [json.loads(line) for line in sandbox_path(name).read_text().splitlines()] == lines


def test_another_pair_is_told_apart(tmp_path, quick):
    assert not is_shipped(quick)
    shutil.copytree(FROZEN, tmp_path / "copy")
    assert is_shipped(tmp_path / "copy")
    weights = tmp_path / "copy" / "aligned" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert not is_shipped(tmp_path / "copy")


def test_unknown_part():
    with pytest.raises(ConfigurationError, match=r"must be one of aligned, base.* got 'chat'\. Write one"):
        sandbox_path("chat")
