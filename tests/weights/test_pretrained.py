"""Pretrained: what is loaded, in which state, and what is said where it cannot be."""

import pytest
import torch
from kit import models, tiny

from asft_lightning import ConfigurationError, Pretrained, Template, generate_answers
from asft_lightning.weights.locations import resolve, resolve_folder


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float64"])
def test_weights_come_at_the_dtype_asked_for(pretrained, dtype):
    model = Pretrained(pretrained.aligned, dtype=dtype).load_model()
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)

    assert {p.dtype for p in model.parameters()} == {expected}
    original = models.tiny_model("chat", 1).state_dict()
    assert all(torch.equal(value, original[name].to(expected)) for name, value in model.state_dict().items())


def test_model_is_in_train_mode(pretrained):
    assert all(module.training for module in pretrained.load_model().modules())


def test_model_on_meta_has_the_shapes_and_no_weights(pretrained):
    on_meta = pretrained.load_model_on_meta()

    assert {p.device.type for p in on_meta.parameters()} == {"meta"}
    real = pretrained.load_model().state_dict()
    assert {name: value.shape for name, value in on_meta.state_dict().items()} == {n: v.shape for n, v in real.items()}


@pytest.mark.parametrize(("start", "seed"), [("aligned", 1), ("base", 2)])
def test_which_of_the_two_is_fine_tuned(pretrained, start, seed):
    """The tokenizer is the aligned model's either way: a base model's often has no template."""
    found = Pretrained(pretrained.aligned, pretrained.base, start=start)
    expected = models.tiny_model("chat", seed).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.load_model().state_dict().items())
    assert found.load_tokenizer().name_or_path == pretrained.aligned
    assert found.origin == (getattr(pretrained, start), None)


def test_no_base_model_to_start_from(pretrained):
    with pytest.raises(ConfigurationError, match=r"start base needs a base checkpoint, and `base` is not given. Name it"):
        Pretrained(pretrained.aligned, start="base").load_model()


def test_attention_implementation_reaches_the_model(pretrained):
    assert Pretrained(pretrained.aligned, attn_implementation="eager").load_model().config._attn_implementation == "eager"


def test_tokenizer_without_pad_token_pads_with_the_end_token(tmp_path):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.pad_token = None
    models.tiny_model("chat", 1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    assert Pretrained(str(tmp_path)).load_tokenizer().pad_token == "</s>"


def without(folder, *absent):
    """A checkpoint whose tokenizer lacks these tokens; its template ends a turn with a token of its own."""
    tokenizer = tiny.tiny_tokenizer(tiny.CHAT_TEMPLATE.replace("{{ eos_token }}", "<|system|>"))
    tokenizer.unk_token = "<|user|>"
    for token in absent:
        setattr(tokenizer, token, None)
    models.tiny_model("chat", 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Pretrained(str(folder))


@pytest.mark.parametrize(
    ("absent", "pad"),
    [
        (["pad_token"], "</s>"),
        (["pad_token", "eos_token"], "<s>"),
        (["pad_token", "eos_token", "bos_token"], "<|user|>"),
        (["eos_token", "bos_token"], "<pad>"),
    ],
)
def test_any_special_token_will_do_for_padding(tmp_path, absent, pad):
    """Up to a batch of rows and one of prompts."""
    pretrained = without(tmp_path / "model", *absent)
    data = tiny.tiny_data(pretrained, tmp_path, batch_size=16)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    tokenizer = pretrained.load_tokenizer()
    prompts = [Template().prompt_ids(tokenizer, prompt) for prompt in ("a", "a long one")]

    assert tokenizer.pad_token == pad
    assert set(batch["input_ids"][batch["attention_mask"] == 0].tolist()) <= {tokenizer.pad_token_id}
    together = generate_answers(pretrained.load_model(), tokenizer, prompts, max_new_tokens=3)
    assert together == [generate_answers(pretrained.load_model(), tokenizer, [p], max_new_tokens=3)[0] for p in prompts]


def test_tokenizer_with_nothing_to_pad_with(tmp_path):
    pretrained = without(tmp_path / "model", "pad_token", "eos_token", "bos_token", "unk_token")
    with pytest.raises(
        ConfigurationError,
        match=r"a tokenizer must have a pad, end, start or unknown token, and that of .* has none. Set pad",
    ):
        tiny.tiny_data(pretrained, tmp_path).setup()


def test_tokenizer_keeps_its_pad_token(pretrained):
    assert pretrained.load_tokenizer().pad_token == "<pad>"


@pytest.mark.parametrize("load", ["load_model", "load_model_on_meta", "load_tokenizer"])
@pytest.mark.parametrize("place", ["nobody/no-such-model", "/no/such/folder"])
def test_model_out_of_reach(load, place):
    with pytest.raises(ConfigurationError, match=rf"'{place}' must be a local path or a hub id within reach.*local path"):
        getattr(Pretrained(place), load)()


def test_weights_out_of_reach():
    with pytest.raises(ConfigurationError, match=r"'nobody/no-such-model' must be a local path.*hf auth login"):
        resolve_folder("nobody/no-such-model")


def test_local_folders_are_themselves(tmp_path):
    assert resolve_folder(str(tmp_path)) == tmp_path
    assert resolve("org/model") == "org/model"


def test_sandbox_part_that_does_not_exist():
    with pytest.raises(ConfigurationError, match="nowhere"):
        resolve("sandbox:nowhere")
