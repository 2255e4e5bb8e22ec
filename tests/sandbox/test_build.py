"""How a sandbox gets on the disk: in one piece, without a trace in the process that builds it."""

import json
import random
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

from asft_lightning.sandbox import build_sandbox
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
    build_sandbox(tmp_path / "again", recipe=recipe)
    torch.set_num_threads(threads)
    for name in ("base", "aligned"):
        file = f"{name}/model.safetensors"
        assert (tmp_path / "again" / file).read_bytes() == (quick / file).read_bytes()


def test_a_build_leaves_the_process_as_it_was(tmp_path, recipe):
    torch.manual_seed(3)
    random.seed(3)
    before, threads = (torch.get_rng_state(), random.getstate()), torch.get_num_threads()
    with torch.inference_mode(), torch.device("meta"):
        build_sandbox(tmp_path / "built", recipe=recipe)
        assert torch.empty(1).device.type == "meta"
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.get_num_threads() == threads


def test_only_the_bar_is_printed(tmp_path, capfd, recipe):
    build_sandbox(tmp_path / "built", recipe=recipe)
    out, err = capfd.readouterr()
    assert out == ""
    assert {line.split(":")[0] for line in err.replace("\r", "\n").split("\n") if line.strip()} == {"Building the sandbox"}


def test_an_aborted_build_leaves_nothing(tmp_path, monkeypatch, recipe):
    def abort(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("asft_lightning.sandbox.build.save_model", abort)  # rows are written by then, models are not
    with pytest.raises(KeyboardInterrupt):
        build_sandbox(tmp_path / "built", recipe=recipe)
    assert list(tmp_path.iterdir()) == []
