"""How a sandbox gets on the disk: named by its recipe, in one piece, without a trace in the process that builds it."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from asft_lightning.sandbox import Recipe, build_sandbox, cache, sandbox_path
from asft_lightning.sandbox.rows import make_corpus


def test_files_hold_the_rows(quick, recipe):
    lines = (quick / "harmful.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == make_corpus(recipe, seed=0).files["harmful"]


def test_models_load_quietly_and_differ_in_every_matrix(quick):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        aligned, base = (AutoModelForCausalLM.from_pretrained(quick / name).state_dict() for name in ("aligned", "base"))
    assert aligned.keys() == base.keys()
    assert all(weight.dtype == torch.float32 for weight in aligned.values())
    assert [name for name in aligned if torch.equal(aligned[name], base[name])] == []


def test_same_seed_same_weights_on_any_number_of_threads(quick, tmp_path, recipe):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    again = build_sandbox(tmp_path, recipe=recipe)
    torch.set_num_threads(threads)
    assert again.name == quick.name
    for name in ("base", "aligned"):
        file = f"{name}/model.safetensors"
        assert (again / file).read_bytes() == (quick / file).read_bytes()


def test_seed_and_recipe_name_the_folder(quick, recipe):
    names = {cache.sandbox_name(recipe, 0), cache.sandbox_name(recipe, 1), cache.sandbox_name(Recipe(), 0)}
    assert len(names) == 3
    assert quick.name == cache.sandbox_name(recipe, 0)


def test_a_build_leaves_the_process_as_it_was(tmp_path, recipe):
    torch.manual_seed(3)
    random.seed(3)
    before, threads = (torch.get_rng_state(), random.getstate()), torch.get_num_threads()
    with torch.inference_mode(), torch.device("meta"):
        build_sandbox(tmp_path, recipe=recipe)
        assert torch.empty(1).device.type == "meta"
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.get_num_threads() == threads


def test_a_finished_sandbox_is_not_built_again(quick, recipe):
    stamp = (quick / "base" / "model.safetensors").stat().st_mtime_ns
    assert build_sandbox(quick.parent, recipe=recipe) == quick
    assert (quick / "base" / "model.safetensors").stat().st_mtime_ns == stamp


def test_only_the_bar_is_printed(tmp_path, capfd, recipe):
    build_sandbox(tmp_path, recipe=recipe)
    out, err = capfd.readouterr()
    assert out == ""
    assert {line.split(":")[0] for line in err.replace("\r", "\n").split("\n") if line.strip()} == {"Building the sandbox"}


def test_an_aborted_build_leaves_nothing(tmp_path, monkeypatch, recipe):
    def abort(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("asft_lightning.sandbox.build.save_model", abort)  # rows are written by then, models are not
        with pytest.raises(KeyboardInterrupt):
            build_sandbox(tmp_path, recipe=recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["base/model.safetensors", "benign.jsonl"])
def test_a_half_written_folder_is_built_anew(quick, tmp_path, lost, recipe):
    folder = Path(shutil.copytree(quick, tmp_path / quick.name))
    (folder / lost).unlink()
    assert not cache.is_finished(folder)
    assert build_sandbox(tmp_path, recipe=recipe) == folder
    assert (folder / lost).exists()


def test_a_damaged_sandbox_is_built_anew(quick, tmp_path, recipe):
    folder = Path(shutil.copytree(quick, tmp_path / quick.name))
    weights = folder / "aligned" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert build_sandbox(tmp_path, recipe=recipe) == folder
    assert weights.read_bytes() == (quick / "aligned" / "model.safetensors").read_bytes()


def test_the_loser_of_a_race_uses_the_winner(quick, tmp_path):
    folder = tmp_path / quick.name
    with cache.staged(folder) as staging:
        shutil.copytree(quick, staging, dirs_exist_ok=True)
        shutil.copytree(quick, folder)  # another process finishes first
        (folder / "winner").touch()
    assert (folder / "winner").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_unknown_part():
    with pytest.raises(ValueError, match=r"part of the sandbox must be one of aligned, base.* got 'chat'\. Write one"):
        sandbox_path("chat")
