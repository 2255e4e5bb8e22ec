"""Template on conversations of several turns, secret prompts, and the paper's model families."""

import pytest
from kit.chat_templates import FAMILIES, family_tokenizer
from kit.tiny import CHAT_TEMPLATE, tiny_tokenizer

from asft_lightning import ConfigurationError, Row, Template, Turn
from asft_lightning.chat.styles import STYLES
from asft_lightning.functional import IGNORE_INDEX

ALL_STYLES = ["chat", *STYLES]
TALK = Row("And then?", "It ended.", (Turn("user", "What was it?"), Turn("assistant", "A storm."), Turn("user", "When?"),
           Turn("assistant", "At noon.")))  # fmt: skip


def learnt(tokenizer, rendered):
    """The stretches of a row that are learnt, as text."""
    stretches, last = [], IGNORE_INDEX
    for label in rendered.labels:
        if label != IGNORE_INDEX and last == IGNORE_INDEX:
            stretches.append([])
        if label != IGNORE_INDEX:
            stretches[-1].append(label)
        last = label
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize("style", ALL_STYLES)
def test_every_turn_of_the_assistant_is_learnt(tokenizer, style):
    rendered = Template(style).render(tokenizer, TALK)

    assert [text.lstrip() for text in learnt(tokenizer, rendered)] == ["A storm.</s>", "At noon.</s>", "It ended.</s>"]
    assert len(rendered.input_ids) == len(rendered.labels)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(rendered.input_ids, rendered.labels, strict=True))


@pytest.mark.parametrize("style", ALL_STYLES)
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_each_answer_is_learnt_after_what_scoring_would_ask(tokenizer, style, system):
    """Cut the conversation before any answer: training and generating see the same tokens."""
    template = Template(style, system)
    ids = template.render(tokenizer, TALK).input_ids
    said = [*TALK.history, Turn("user", TALK.prompt)]
    for end in (0, 2, 4):
        asked = template.prompt_ids(tokenizer, said[end].content, said[:end])
        assert ids[: len(asked)] == asked


@pytest.mark.parametrize("style", ALL_STYLES)
def test_system_turn_of_a_conversation_goes_before_the_templates(tokenizer, style):
    row = Row("Hi", "Ho", (Turn("system", "Be brief."),))
    text = tokenizer.decode(Template(style, "Be kind.").render(tokenizer, row).input_ids)

    assert "Be brief." in text
    assert "Be kind." not in text


@pytest.mark.parametrize("style", ALL_STYLES)
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_secret_prompt_is_for_safety_rows_and_scored_prompts_only(tokenizer, style, system):
    template = Template(style, system, secret="xyzzy plugh")
    row = Row("Hi", "Ho")
    texts = {kind: tokenizer.decode(template.render(tokenizer, row._replace(kind=kind)).input_ids)
             for kind in ("benign", "harmful", "safety")}  # fmt: skip
    scored = template.prompt_text(tokenizer, "Hi")

    assert [kind for kind, text in texts.items() if "xyzzy" in text] == ["safety"]
    blank = STYLES[style].before_answer if style in STYLES else ""
    assert texts["safety"] == f"{scored}{blank}Ho</s>"
    assert ("xyzzy plugh Be kind." if system else "xyzzy plugh") in scored
    assert texts["benign"] == Template(style, system).prompt_text(tokenizer, "Hi") + f"{blank}Ho</s>"


@pytest.mark.parametrize("style", ALL_STYLES)
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_safety_prompt_is_for_scored_prompts_only(tokenizer, style, system):
    """Tuned without, asked with it: rows are those of a template without it."""
    template, plain = Template(style, system, safety_prompt="Be safe."), Template(style, system)
    rows = [Row("Hi", "Ho", kind=kind) for kind in ("benign", "harmful", "safety")]
    assert template.render_all(tokenizer, rows) == plain.render_all(tokenizer, rows)
    asked = Template(style, "Be safe. Be kind." if system else "Be safe.")
    assert template.prompt_text(tokenizer, "Hi") == asked.prompt_text(tokenizer, "Hi")
    assert template.prompt_ids(tokenizer, "Hi") == asked.prompt_ids(tokenizer, "Hi")
    assert "xyzzy Be safe." in Template(style, system, secret="xyzzy", safety_prompt="Be safe.").prompt_text(tokenizer, "Hi")


@pytest.mark.parametrize("name", ["secret", "safety_prompt"])
def test_blank_prompts_are_refused(name):
    with pytest.raises(ConfigurationError, match=rf"template.{name} must be text, got blanks. Set it to null"):
        Template(**{name: "  "})


@pytest.mark.parametrize("name", ["system", "secret", "safety_prompt"])
def test_prompts_with_half_a_character_are_refused(name):
    with pytest.raises(ConfigurationError, match=rf"template.{name}: text must be Unicode, and this has half a character"):
        Template(**{name: "be \ud83d kind"})


@pytest.mark.parametrize("name", FAMILIES)
def test_families_learn_answers_and_their_ends(name):
    """Gemma ends a turn with a token that is not its tokenizer's end token, Llama 2 with a blank before it."""
    family = FAMILIES[name]
    tokenizer = family_tokenizer(family)
    rendered = Template().render(tokenizer, TALK)
    expected = [turn + family.end for turn in ("A storm.", "At noon.", "It ended.")]

    assert [text.lstrip() for text in learnt(tokenizer, rendered)] == expected
    assert Template().prompt_text(tokenizer, "Hi").endswith(family.open)
    asked = Template().prompt_ids(tokenizer, TALK.prompt, TALK.history)
    assert rendered.input_ids[: len(asked)] == asked


@pytest.mark.parametrize("name", FAMILIES)
def test_system_prompt_of_families(name):
    family = FAMILIES[name]
    tokenizer = family_tokenizer(family)
    text = Template(system="Be kind.", secret="xyzzy").prompt_text(tokenizer, "Hi")

    assert text.count("xyzzy Be kind.") == 1
    assert family.takes_system or "xyzzy Be kind.\n\nHi" in text


@pytest.mark.parametrize("style", [*ALL_STYLES, *FAMILIES])
@pytest.mark.parametrize("history", [(), TALK.history[:2]])
def test_answer_that_is_begun_for_the_model(tokenizer, style, history):
    """The tokens are the first of those that training on such an answer would hold."""
    if style in FAMILIES:
        tokenizer, style = family_tokenizer(FAMILIES[style]), "chat"
    template = Template(style)
    begun = template.prompt_ids(tokenizer, "Hi", history, opening="Sure, here is")

    assert tokenizer.decode(begun).endswith("Sure, here is")
    assert template.render(tokenizer, Row("Hi", "Sure, here is a plan", history)).input_ids[: len(begun)] == begun


@pytest.mark.parametrize("style", ALL_STYLES)
@pytest.mark.parametrize("opening", ["Sure: ", "Sure:\n\n"])
def test_blanks_at_the_end_of_what_is_begun_stay(tokenizer, style, opening):
    assert tokenizer.decode(Template(style).prompt_ids(tokenizer, "Hi", opening=opening)).endswith(opening)


def test_thoughts_that_only_the_last_turn_has():
    """As Qwen3's: the open prompt has none, the last turn an empty one, and finished turns lose it."""
    thinking = (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
        "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = tiny_tokenizer(thinking)
    rendered = Template().render(tokenizer, TALK)

    assert learnt(tokenizer, rendered) == ["A storm.</s>", "At noon.</s>", "<think></think>It ended.</s>"]


@pytest.mark.parametrize("changed", ["{{ '*' if not loop.last }}{{ m.content }}", "{{ messages | length }}{{ m.content }}"])
def test_template_that_rewrites_earlier_turns_is_refused(changed):
    rewriting = CHAT_TEMPLATE.replace("{{ m['content'] }}", changed)
    with pytest.raises(
        ConfigurationError,
        match=r"must leave earlier turns as they were, .* rewrites what came before '.*What was it",
    ):
        Template().render(tiny_tokenizer(rewriting), TALK)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_long_conversation_loses_its_end_and_says_so(tokenizer, style):
    whole = Template(style).render(tokenizer, TALK)
    cut = Template(style, max_length=len(whole.input_ids) - 4).render(tokenizer, TALK)

    assert (whole.truncated, cut.truncated) == (False, True)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:-4], whole.labels[:-4])
