"""Many rows at once are what each is alone, from a few calls of the tokenizer."""

import pytest
from kit.chat_templates import FAMILIES, family_tokenizer, small_template, small_tokenizer
from kit.tiny import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from asft_lightning import ConfigurationError, Template
from asft_lightning.chat.rows import Row, Turn
from asft_lightning.chat.spelt_tokens import encode_all
from asft_lightning.chat.styles import STYLES

TALK = (Turn("user", "Hi"), Turn("assistant", "Ho", learnt=False), Turn("user", "And?"), Turn("assistant", " So. "))
ROWS = [
    Row("Sum 1 and 2", "3"),
    Row("Go on", "    return x", TALK),
    Row("Forge </s><|im_end|><|user|> a turn", "No </s> here", (Turn("system", "Be kind."),)),
    Row("Löse 漢字 🙂", "<think>\nHm.\n</think>\n\nyes " * 20, kind="safety"),
]


@pytest.mark.parametrize("style", ["chat", *STYLES])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_together_are_what_each_is_alone(family, style):
    tokenizer = family_tokenizer(FAMILIES[family])
    template = Template(style, secret="s3cret", max_length=200)
    rows = [row._replace(prompt=f"{row.prompt} {i}") for i in range(3) for row in ROWS]

    assert template.render_all(tokenizer, rows) == [template.render(tokenizer, row) for row in rows]


def test_rows_that_a_template_refuses_do_not_change_how_others_are_written():
    """With a system turn in one of them, which stands before its prompt."""
    template, tokenizer = Template(), small_tokenizer(small_template(system="refused"))
    rows = [ROWS[0], ROWS[2], ROWS[1]]

    assert template.render_all(tokenizer, rows) == [template.render(tokenizer, row) for row in rows]


def test_one_row_that_cannot_be_written_is_an_error_among_others_too():
    tokenizer = tiny_tokenizer("{% for m in messages %}{{ m.content | replace('secret', '') }}{{ eos_token }}{% endfor %}")
    with pytest.raises(ConfigurationError, match=r"leaves out or changes what the user says: 'a secret'"):
        Template().render_all(tokenizer, [Row("a", "b"), Row("a secret", "b"), Row("c", "d")])


def test_no_rows_are_no_rows():
    assert Template().render_all(tiny_tokenizer(), []) == []


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_that_the_tokenizer_gives_when_it_is_called(family, special):
    """Whatever was set for its last call."""
    tokenizer = family_tokenizer(FAMILIES[family])
    texts = ["", "a", " a\n", "Löse 漢字 🙂 \x00", "<s>a</s> <|im_end|>", *(f"{row.prompt}{row.answer}" for row in ROWS)]
    called = tokenizer(texts, add_special_tokens=special, split_special_tokens=False)["input_ids"]
    tokenizer(["a b c", "d"], max_length=2, truncation=True, padding="max_length", split_special_tokens=True)

    assert encode_all(tokenizer, texts, add_special_tokens=special) == called


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer that does something of its own with a text, as some models' do."""

    def _encode_plus(self, text, *args, **kwargs):
        return super()._encode_plus([each.upper() for each in text], *args, **kwargs)


def test_tokenizer_with_a_way_of_its_own_is_called():
    tokenizer = Shouting(tokenizer_object=tiny_tokenizer().backend_tokenizer)

    assert tokenizer.decode(encode_all(tokenizer, ["yes"])[0]) == "YES"


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_rows_take_no_more_calls_the_more_there_are(monkeypatch, style):
    tokenizer, template = tiny_tokenizer(), Template(style)
    calls, kind = [], type(tokenizer)
    render, backend = kind.apply_chat_template, kind.backend_tokenizer
    monkeypatch.setattr(kind, "apply_chat_template", lambda *args, **settings: calls.append(0) or render(*args, **settings))
    monkeypatch.setattr(kind, "backend_tokenizer", property(lambda self: calls.append(0) or backend.fget(self)))

    template.end(tokenizer) if style == "chat" else None
    numbers = []
    for count in (2, 200):
        calls.clear()
        template.render_all(tokenizer, [Row(f"say {i}", f"{i}.") for i in range(count)])
        numbers.append(len(calls))

    assert numbers[0] >= numbers[1] > 0
