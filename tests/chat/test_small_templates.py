"""What holds for every chat template: all that is given is written, answers end, and rows are what the template writes."""

import pytest
from kit.chat_templates import LOSSY, SMALL, small_template, small_tokenizer

from asft_lightning import ConfigurationError, Row, Template, Turn
from asft_lightning.functional import IGNORE_INDEX

ENDLESS = {"no end", "end of plain text"}
ENDS = {
    "no end": "</s>",
    "end of plain text": "</s>",
    "end after the last turn alone": "</s>",
    "another end after the last turn": "<|return|>",
}
PARTED = {"opens a thought", "opens an empty thought"}
"""Whose finished turns lack what the open prompt has."""
ROW = Row("Go on?", "Yes, do.")
TALK = ROW._replace(history=(Turn("user", "Hello?"), Turn("assistant", "Hi there.")))
LED = TALK._replace(history=(Turn("system", "Be kind."), *TALK.history))
ROWS = {"one turn": ROW, "several turns": TALK, "system turn": LED}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
added_end_is_said = pytest.mark.filterwarnings("ignore:The chat template of .* writes no token that ends an answer")


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


@pytest.fixture
def tokenizer(name):
    return small_tokenizer(SMALL[name])


def said(row):
    return [*row.history, Turn("user", row.prompt), Turn("assistant", row.answer)]


def finished(tokenizer, row, in_parts, **settings):
    """What the chat template itself writes of the whole conversation."""
    messages = [
        {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
        for role, content, _ in said(row)
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, **settings)


def learnt(tokenizer, rendered):
    return tokenizer.decode([label for label in rendered.labels if label != IGNORE_INDEX])


@added_end_is_said
@every_row
def test_all_that_is_given_is_written_in_this_order(tokenizer, row):
    template = Template(system="Be brief.", secret="xyzzy")
    given = ["xyzzy Be kind." if row is LED else "xyzzy Be brief.", *(t.content for t in said(row) if t.role != "system")]
    whole = tokenizer.decode(template.render(tokenizer, row._replace(kind="safety")).input_ids)
    asked = tokenizer.decode(template.prompt_ids(tokenizer, row.prompt, row.history))

    for text, texts in ((whole, given), (asked, given[:-1])):
        places = [text.find(part) for part in texts]
        assert places == sorted(places) and places[0] >= 0
    assert template.prompt_text(tokenizer, row.prompt, row.history) == asked


@pytest.mark.parametrize("name", [name for name in SMALL if "no system" in name or "refused" in name])
def test_system_prompt_stands_before_the_first_prompt_where_there_is_no_system_turn(tokenizer):
    text = Template(system="Be brief.").prompt_text(tokenizer, "Go on?", TALK.history)
    assert "<|user|>Be brief.\n\nHello?<|end|>" in text
    assert text.count("Be brief.") == 1


@pytest.mark.parametrize("lost", LOSSY)
def test_template_that_leaves_out_or_changes_what_is_given_is_refused(lost):
    row = TALK._replace(answer="<think>\nHm.\n</think>\n\nYes, do.") if lost == "thoughts" else TALK
    who = {"answers": r"assistant says: 'Hi there.'", "thoughts": r"assistant says: '<think>\\n"}
    with pytest.raises(
        ConfigurationError,
        match=rf"must write all .* that of 'mine' leaves out or changes what the {who.get(lost, 'user says: .Hello')}.*"
        r"Take it out of the rows or the settings, or set template.style to one of plain",
    ):
        Template().render(renamed(small_tokenizer(LOSSY[lost])), row)


def renamed(tokenizer):
    tokenizer.name_or_path = "mine"
    return tokenizer


@added_end_is_said
@every_row
def test_last_token_that_is_learnt_ends_answers(name, tokenizer, row):
    template = Template()
    labels = template.render(tokenizer, row).labels

    assert labels[-1] == template.end(tokenizer).token_id
    assert tokenizer.decode(labels[-1:]) == ENDS.get(name, "<|end|>")


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_end_that_is_added_is_said(tokenizer):
    with pytest.warns(UserWarning, match=r"of 'mine' writes no token that ends .* The tokenizer's, '</s>', is learnt there"):
        Template().render(renamed(tokenizer), ROW)


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_neither_template_nor_tokenizer_has_an_end(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match=r"an answer must end with a token .* of 'mine' has one. Set eos_token in"):
        Template().render(renamed(tokenizer), ROW)


@added_end_is_said
@pytest.mark.parametrize("row", [ROW, TALK], ids=list(ROWS)[:2])
def test_row_is_what_the_template_writes_of_the_finished_conversation(name, tokenizer, row):
    template = Template(date="2024-02-03")
    text = tokenizer.decode(template.render(tokenizer, row).input_ids)
    expected = finished(tokenizer, row, "parts" in name).replace(today_in(tokenizer), "03 February 2024")

    assert expected.startswith(text.removesuffix("</s>") if name in ENDLESS else text)


def today_in(tokenizer):
    """The date that Transformers has the template write; what stands in no text where it writes none."""
    text = finished(tokenizer, ROW, in_parts=False)
    return text.partition("Today is ")[2].partition(".")[0] or "\0"


@added_end_is_said
def test_every_answer_is_learnt_and_no_prompt(name, tokenizer):
    text = learnt(tokenizer, Template().render(tokenizer, LED))
    thought = "</think>\n\n" if "finish" in name or "switched" in name else ""

    assert text.startswith("Hi there.") and thought + "Yes, do." in text
    assert not any(part in text for part in ("Hello", "Go on", "kind", "user", "assistant"))


@added_end_is_said
@pytest.mark.parametrize("name", [name for name in SMALL if name not in PARTED])
def test_each_answer_is_learnt_after_what_scoring_asks(name, tokenizer):
    template, turns = Template(), said(LED)
    ids = template.render(tokenizer, LED).input_ids
    for place in (3,) if name == "opens a thought that is finished" else (1, 3):  # finished in the last turn alone
        asked = template.prompt_ids(tokenizer, turns[place].content, turns[:place])
        assert ids[: len(asked)] == asked


@pytest.mark.parametrize("name", sorted(PARTED))
def test_thought_that_the_prompt_opens_holds_no_answer(tokenizer):
    rendered = Template().render(tokenizer, ROW)
    assert "<think>" in Template().prompt_text(tokenizer, ROW.prompt)
    assert tokenizer.decode(rendered.input_ids) == "<|user|>Go on?<|end|>\n<|assistant|>Yes, do.<|end|>"
    assert learnt(tokenizer, rendered) == "Yes, do.<|end|>"


@pytest.mark.parametrize("opens", [" ", "\n", "Answer: "])
def test_last_answer_follows_what_scoring_asks_where_the_finished_turn_begins_otherwise(opens):
    tokenizer = small_tokenizer(small_template(opens=opens))
    asked, rendered = Template().prompt_ids(tokenizer, ROW.prompt), Template().render(tokenizer, ROW)
    assert rendered.input_ids[: len(asked)] == asked
    assert learnt(tokenizer, rendered) == "Yes, do.<|end|>"
    if not opens.strip():
        assert learnt(tokenizer, Template().render(tokenizer, TALK)) == "Hi there.<|end|>Yes, do.<|end|>"


def test_thought_of_a_row_is_not_doubled():
    """It goes on where the prompt has opened one."""
    own = (
        "{% if m.role == 'assistant' %}<think>\n{{ m.content.split('</think>')[0][7:] | trim }}\n</think>\n\n"
        "{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %}"
    )
    tokenizer = small_tokenizer(small_template(content=own, opens="<think>\n"))
    rendered = Template().render(tokenizer, Row("Go on?", "<think>Hm.</think>Yes."))

    assert tokenizer.decode(rendered.input_ids).endswith("<|assistant|><think>\nHm.\n</think>\n\nYes.<|end|>")
    assert learnt(tokenizer, rendered) == "Hm.\n</think>\n\nYes.<|end|>"


@pytest.mark.parametrize("name", ["thought that can be switched off"])
@pytest.mark.parametrize(("enabled", "opened"), [(None, ""), (True, ""), (False, "<think>\n\n</think>\n\n")])
def test_enable_thinking_reaches_the_template(tokenizer, enabled, opened):
    template = Template(enable_thinking=enabled)
    assert template.prompt_text(tokenizer, "Hi") == f"<|user|>Hi<|end|>\n<|assistant|>{opened}"
    text = learnt(tokenizer, template.render(tokenizer, ROW))
    assert text == ("" if opened else "<think>\n\n</think>\n\n") + "Yes, do.<|end|>"


def test_enable_thinking_that_nothing_looks_at_is_refused():
    with pytest.raises(ConfigurationError, match=r"enable_thinking False needs a chat template that looks at it.* to null"):
        Template(enable_thinking=False).prompt_ids(small_tokenizer(SMALL["plain"]), "Hi")
    with pytest.raises(ConfigurationError, match=r"enable_thinking is for style chat, got style 'plain'. Set it to null"):
        Template("plain", enable_thinking=True)


@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
@pytest.mark.parametrize("name", ["plain", "trims"])
def test_blanks_around_texts_are_the_templates_to_keep(tokenizer, name, blank):
    row = Row(f"{blank}Go on?{blank}", f"{blank}Yes, do.{blank}")
    left = "" if name == "trims" else blank
    text = tokenizer.decode(Template().render(tokenizer, row).input_ids)
    assert text == f"<|user|>{left}Go on?{left}<|end|>\n<|assistant|>{left}Yes, do.{left}<|end|>"


def test_blank_turns_are_written_as_blank():
    asking = small_template(content="{{ m.content if m.content else 'nothing' }}")
    row = Row("Go on?", "Yes, do.", (Turn("system", ""), Turn("user", "Hello?"), Turn("assistant", "")))
    rendered = Template().render(small_tokenizer(asking), row)
    text = small_tokenizer(asking).decode(rendered.input_ids)
    assert text.count("nothing") == 2
    assert learnt(small_tokenizer(asking), rendered) == "nothing<|end|>Yes, do.<|end|>"
