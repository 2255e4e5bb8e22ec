"""Token ids by segments are those of whole texts, whatever the tokenizer does at a text's beginning and to its blanks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from asft_lightning.chat.token_ids import token_ids

SETTINGS = {
    "byte level": {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False)},
    "byte level, a blank first": {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
    "metaspace at the beginning": {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first")},
    "metaspace everywhere": {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="always")},
    "metaspace by normalizer": {
        "normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    },
    "stripped": {"normalizer": normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])},
}
TOKENS = {
    "plain": [("<|a|>", {}), ("<|b|>", {})],
    "blanks taken": [("<|a|>", {"lstrip": True}), ("<|b|>", {"rstrip": True})],
    "whole words": [("<|a|>", {"single_word": True}), ("<|b|>", {})],
    "found after normalization": [("<|a|>", {"normalized": True}), ("<|b|>", {})],
    "one begins another": [("<|a|>", {}), ("<|a|>\n", {"lstrip": True}), ("<|b|>", {})],
    "one reaches another": [("x<|", {"lstrip": True}), ("<|a|>", {}), ("|b", {})],
    "one begins within itself": [("x|x", {}), ("<|b|>", {})],
    "one holds another": [("x<|a|>y", {"lstrip": True}), ("<|a|>", {}), ("a", {})],
}


def tokenizer_of(setting, tokens):
    """Letters, blanks and pairs of them, learnt from nothing."""
    letters = ["<unk>", *"xyab<|>\n▁ ĠĊ"]
    pairs = [(x, y) for x in "xy▁ \nĠĊ" for y in "xy\nĊ▁ "]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*letters, *(x + y for x, y in pairs)]))}
    backend = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>"))
    for name, value in setting.items():
        setattr(backend, name, value)
    backend.add_special_tokens([AddedToken(text, **({"normalized": False} | how)) for text, how in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_ids_are_those_of_whole_texts(setting, tokens):
    tokenizer = tokenizer_of(setting, tokens)
    pieces = st.sampled_from(["x", "y", " ", "\n", "|", "<|", "a", "<|a|>", "<|b|>", "x<|a|>y", "<|a|>\n"])

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.lists(pieces, max_size=8).map("".join), max_size=4))
    def compare(texts):
        assert token_ids(tokenizer, texts) == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    compare()


def test_what_comes_again_is_encoded_once(monkeypatch):
    """A prompt stands in what is asked and in the whole; a system prompt in every row."""
    tokenizer, encoded = tokenizer_of(SETTINGS["byte level"], TOKENS["plain"]), []
    backend = tokenizer.backend_tokenizer

    class Counting:
        def __getattr__(self, name):
            return getattr(backend, name)

        def encode_batch_fast(self, texts, **how):
            encoded.extend(texts)
            return backend.encode_batch_fast(texts, **how)

    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", property(lambda self: Counting()))
    token_ids(tokenizer, [f"<|a|>x{end}" for i in range(9) for end in (f"<|b|>{i}", f"<|b|>{i}<|a|>y")])

    assert sorted(encoded) == ["<|a|>x", "<|a|>y", *(f"<|b|>{i}" for i in range(9))]
