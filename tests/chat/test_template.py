"""Template: the text of each style, and one rendering for training and scoring."""

import pytest
from kit.tiny import CHAT_TEMPLATE, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from asft_lightning import ConfigurationError, Template
from asft_lightning.chat.rows import Row
from asft_lightning.chat.styles import STYLES
from asft_lightning.functional import IGNORE_INDEX

ALL_STYLES = ["chat", *STYLES]
WRITTEN = {
    ("chat", None): "<s><|user|>Hi {there}</s>\n<|assistant|>",
    ("chat", "Be kind."): "<s><|system|>Be kind.</s>\n<|user|>Hi {there}</s>\n<|assistant|>",
    ("plain", None): "Hi {there}\n",
    ("plain", "Be kind."): "Be kind.\n\nHi {there}\n",
    ("alpaca", None): "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\nHi {there}\n\n### Response:\n",
    ("alpaca", "Be kind."): "Be kind.\n\n### Instruction:\nHi {there}\n\n### Response:\n",
    ("vicuna", None): "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: Hi {there} ASSISTANT:",
    ("vicuna", "Be kind."): "Be kind. USER: Hi {there} ASSISTANT:",
    ("llama2", None): "[INST] Hi {there} [/INST]",
    ("llama2", "Be kind."): "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi {there} [/INST]",
}


def said(style, answer):
    """An answer as it is learnt: two styles part it from the prompt by a blank, which a token takes with a word."""
    return STYLES[style].before_answer + answer if style in STYLES else answer


def parts(template, tokenizer, prompt, answer):
    """Token ids before the answer, and those learnt, of a row of one turn."""
    ids, labels, _ = template.render(tokenizer, Row(prompt, answer))
    start = sum(label == IGNORE_INDEX for label in labels)
    assert [IGNORE_INDEX] * start + ids[start:] == labels
    return ids[:start], ids[start:]


def with_specials(single, special_tokens):
    """The tiny tokenizer, writing special tokens of its own around every text, as Llama's or T5's do."""
    found = tiny_tokenizer()
    found.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special_tokens)
    return found


@pytest.mark.parametrize(("style", "system"), WRITTEN)
def test_text_of_each_style(tokenizer, style, system):
    assert Template(style, system).prompt_text(tokenizer, "Hi {there}") == WRITTEN[style, system]


@pytest.mark.parametrize("style", ALL_STYLES)
@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("prompt", ["Hi", "Wie spät?\n\n¿Qué hora es? 几点了？", "a </s> b {system} {prompt}"])
def test_scored_prompt_is_the_prefix_of_the_training_row(tokenizer, style, system, prompt):
    template = Template(style, system)
    before, answer = parts(template, tokenizer, prompt, "It is – noon.")

    assert template.prompt_ids(tokenizer, prompt) == before
    assert tokenizer.decode(before) == template.prompt_text(tokenizer, prompt)
    assert tokenizer.decode(answer) == said(style, "It is – noon.</s>")


@pytest.mark.parametrize("style", STYLES)
def test_braces_in_a_system_prompt_are_text(tokenizer, style):
    assert "Fill in {prompt} here." in Template(style, "Fill in {prompt} here.").prompt_text(tokenizer, "Hi")


@pytest.mark.parametrize("style", ALL_STYLES)
def test_row_ids_are_those_of_the_whole_conversation(tokenizer, style):
    """The reference writes the row as one text and encodes it at once."""
    before, answer = parts(Template(style), tokenizer, "Hi", "Ho")
    whole = tokenizer(WRITTEN[style, None].replace("Hi {there}", "Hi") + said(style, "Ho</s>"), add_special_tokens=False)[
        "input_ids"
    ]

    assert before + answer == whole


@pytest.mark.parametrize("single", ["<s> $A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize("style", STYLES)
def test_special_tokens_of_the_tokenizer_stand_once(style, single):
    """A prompt is open at its end, and its row is closed by one end token, whatever the tokenizer adds."""
    tokenizer = with_specials(single, [("<s>", 1), ("</s>", 2)])
    before, answer = parts(Template(style), tokenizer, "Hi", "Ho")

    assert before.count(1) == single.count("<s>")
    assert before.count(2) == 0
    assert tokenizer.decode(answer) == said(style, "Ho</s>")
    assert Template(style).prompt_ids(tokenizer, "Hi") == before


def test_chat_template_writes_its_special_tokens_itself():
    tokenizer = with_specials("<s> $A", [("<s>", 1)])
    before, _ = parts(Template("chat"), tokenizer, "Hi", "Ho")

    assert before.count(1) == 1


def test_token_across_the_border_is_not_learnt():
    """After ``Response:`` an answer can start with ``No``, never with a token that also holds the line break before it."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["\nN"])
    before, answer = parts(Template("alpaca"), tokenizer, "Hi", "No")

    assert before == Template("alpaca").prompt_ids(tokenizer, "Hi")
    assert tokenizer.decode(before[-1:]) == "\n"
    assert [tokenizer.decode([token]) for token in answer] == ["N", "o", "</s>"]


def test_blank_before_an_answer_goes_with_its_first_word():
    """As the tokens of real models do: the prompt ends without it, in training and in scoring."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([" N"])
    before, answer = parts(Template("llama2"), tokenizer, "Hi", "No")

    assert before == Template("llama2").prompt_ids(tokenizer, "Hi")
    assert [tokenizer.decode([token]) for token in answer] == [" N", "o", "</s>"]


def test_chat_template_that_writes_finished_turns_differently():
    """The open prompt holds an empty thought that a finished turn has not: the row is what the template writes of that."""
    thinking = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|><think></think>")
    tokenizer = tiny_tokenizer(thinking)
    before, answer = parts(Template(), tokenizer, "Hi", "Ho")

    assert tokenizer.decode(before) == "<s><|user|>Hi</s>\n<|assistant|>"
    assert tokenizer.decode(answer) == "Ho</s>"


@pytest.mark.parametrize(
    ("room", "left"), [(0, ""), (1, "a"), (4, "abcd"), (6, "abcdef"), (7, "abcdef</s>"), (9, "abcdef</s>")]
)
def test_long_answer_loses_its_end(tokenizer, room, left):
    prompt = Template().prompt_ids(tokenizer, "Hi")
    before, answer = parts(Template(max_length=len(prompt) + room), tokenizer, "Hi", "abcdef")

    assert before == prompt
    assert tokenizer.decode(answer) == left


def test_prompt_longer_than_the_row_leaves_no_answer(tokenizer):
    assert parts(Template(max_length=4), tokenizer, "a long prompt", "yes")[1] == []


def test_model_without_chat_template():
    tokenizer = tiny_tokenizer(chat_template=None)
    with pytest.raises(ConfigurationError, match=r"needs a tokenizer with a chat template.*Set template.style to one"):
        Template().prompt_ids(tokenizer, "Hi")
    assert tokenizer.decode(Template("plain").prompt_ids(tokenizer, "Hi")) == "Hi\n"


def test_system_prompt_where_a_chat_template_has_no_system_turn():
    """As Gemma 2's: it stands before the first prompt."""
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    text = Template(system="Be kind.").prompt_text(tiny_tokenizer(refusing + CHAT_TEMPLATE), "Hi")
    assert text == "<s><|user|>Be kind.\n\nHi</s>\n<|assistant|>"


def test_chat_template_that_refuses_these_turns():
    with pytest.raises(ConfigurationError, match=r"refuses these turns \(no users here\). Mend them, or set template.style"):
        Template(system="Be kind.").prompt_ids(tiny_tokenizer("{{ raise_exception('no users here') }}"), "Hi")


def test_tokenizer_without_an_end_token():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    assert tokenizer.decode(Template("plain").prompt_ids(tokenizer, "Hi")) == "Hi\n"
    with pytest.raises(ConfigurationError, match=r"an answer must end with a token that generation stops at.*Set eos_token"):
        Template("plain").render(tokenizer, Row("Hi", "Ho"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "llama-2"}, r"must be one of chat, plain, alpaca, vicuna, llama2, got 'llama-2'.*Use chat for a model"),
        ({"max_length": 1}, r"max_length must be 2 tokens or more, got 1. 512 is usual"),
        ({"date": "today"}, r"date must be a day as 2025-07-26, got 'today'. Set it to null for the day on which"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        Template(**settings)
