"""A model's config.json from elsewhere: nothing that it names is fetched or run, and what cannot be is said in one line."""

import json

import pytest
from kit import tiny
from transformers.integrations import hub_kernels

from asft_lightning import ConfigurationError, GuardJudge, Pretrained
from asft_lightning.evaluation import end_ids

pytestmark = pytest.mark.usefixtures("seed_stays")


def changed(folder, file="config.json", **settings):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.fixture
def folder(tmp_path):
    return tiny.save_tiny(tmp_path / "model", 1)


@pytest.fixture
def fetched(monkeypatch):
    """Kernels that were asked for, where their library is installed."""
    asked = []
    monkeypatch.setattr(hub_kernels, "_kernels_available", True, raising=False)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True, raising=False)
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda name, **_: asked.append(name))
    return asked


KERNELS = [{"_attn_implementation": "evil/kernel"}, {"attn_implementation": "evil/kernel@main:run"}]


def test_the_kernel_is_a_live_one(folder, fetched):
    with pytest.raises(Exception, match=r".*"):  # what is fetched here is no kernel
        Pretrained(str(folder), attn_implementation="evil/kernel").load_model()
    assert fetched == ["evil/kernel"]


@pytest.mark.parametrize("named", KERNELS, ids=str)
@pytest.mark.parametrize("load", [Pretrained.load_model, Pretrained.load_model_on_meta, Pretrained.vocabulary_size])
def test_kernel_that_a_model_names(folder, fetched, load, named):
    with pytest.raises(ConfigurationError, match=r"model names a kernel to fetch and run, which is not done: _?attn_impl"):
        load(Pretrained(str(changed(folder, **named))))
    assert fetched == []


def test_kernel_that_a_judge_names(folder, fetched):
    with pytest.raises(ConfigurationError, match=r"model names a kernel to fetch and run"):
        GuardJudge(str(changed(folder, **KERNELS[0])), device="cpu")(["a"], ["b"])
    assert fetched == []


def test_kernel_of_a_part_of_a_model(folder, fetched):
    with pytest.raises(ConfigurationError, match=r"names a kernel to fetch and run"):
        Pretrained(str(changed(folder, text_config={"_attn_implementation": {"": "evil/kernel"}}))).load_model()
    assert fetched == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_hidden_layers": 10**9},
            r"all of its weights, and .* holds 21 while num_hidden_layers .* is 1000000000",
        ),
        ({"hidden_size": 10**9}, r"must hold all of its weights, and the files of .*model have \d+ bytes for the \d+"),
        ({"vocab_size": 10**12}, r"must hold all of its weights, and the files of .*model have \d+ bytes for the \d+"),
        ({"hidden_act": "__import__"}, r"model cannot be read as weights .*__import__.*get it again"),
        ({"hidden_act": ["x"]}, r"model cannot be read as weights .*hidden_act.*get it again"),
        ({"rope_scaling": {"rope_type": "x"}}, r"model cannot be read as weights .*get it again"),
        ({"pad_token_id": 10**9}, r"model cannot be read as weights .*Padding_idx.*get it again"),
    ],
    ids=str,
)
@pytest.mark.parametrize("load", [Pretrained.load_model, Pretrained.load_model_on_meta])
def test_configuration_that_cannot_be(folder, load, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        load(Pretrained(str(changed(folder, **settings))))


def test_configuration_that_is_nested_for_ever(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigurationError, match=r"model cannot be read as weights .*recursion"):
        Pretrained(str(folder)).load_model()


@pytest.mark.parametrize("end", ["x", [[1]]])
def test_end_tokens_that_are_none(folder, end):
    model = Pretrained(str(folder))
    changed(folder, "generation_config.json", eos_token_id=end)
    with pytest.raises(ConfigurationError, match=r"eos_token_id must be a token id or a list of them, got .*Get it again"):
        end_ids(model.load_model(), model.load_tokenizer())
