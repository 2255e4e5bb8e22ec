"""Chat templates that only copy texts: conversations of one shape are what the template writes of each by itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.chat_templates import FAMILIES, family_tokenizer, small_template
from kit.tiny import CHAT_TEMPLATE, tiny_tokenizer

from asft_lightning import ConfigurationError
from asft_lightning.chat import chat_template
from asft_lightning.chat.chat_template import write_chats
from asft_lightning.chat.copying import only_copies
from asft_lightning.chat.rows import Turn

LLAMA_2 = (  # as its tokenizer has it
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
COPYING = {
    "tiny": CHAT_TEMPLATE,
    "llama-2": LLAMA_2,
    **{name: family.template for name, family in FAMILIES.items()},
    "one side stripped": "{% for m in messages %}{{ m.role ~ m.content.lstrip() ~ '|' }}{{ (m.content + ' ').rstrip() }}"
    "{% endfor %}",
    "blanks of its own": "{% for m in messages %}{{ '  ' + m.content + '  ' }}{{ ('\n' + m.content) | trim }}{% endfor %}",
    "backwards": "{% for m in messages[::-1] %}{{ m.content if loop.last else m.content | trim }},{% endfor %}",
    "no system": small_template(system="refused"),
}
LOOKING = {
    "in": "{% if 'x' in m.content %}!{% endif %}{{ m.content }}",
    "in a text": "{% set t = 'a' + m.content %}{{ t if 'x' not in t }}",
    "where it stands": "{{ '!' if m.content in 'xyz' }}{{ m.content }}",
    "truth": "{{ m.content or '!' }}",
    "if": "{% if m.content %}{{ m.content }}{% endif %}",
    "equal": "{{ '!' if m.content == 'x' }}{{ m.content }}",
    "length": "{{ m.content | length }}{{ m.content }}",
    "case": "{{ m.content | upper }}{{ m.content.lower() }}",
    "cut": "{{ m.content[:2] }}{{ m.content }}",
    "split": "{{ m.content.split('x')[-1] }}{{ m.content }}",
    "stripped of letters": "{{ m.content.strip('x') }}{{ m.content | trim('x') }}",
    "replaced": "{{ m.content | replace('x', 'y') }}",
    "formatted": "{{ '%s' % m.content }}{{ 'x{}'.format(m.content) }}",
    "as a key": "{{ {'x': '!'}[m.content] }}{{ m.content }}",
    "whole": "{{ m | tojson }}{{ m.content }}",
    "written whole": "{{ m }}",
    "its entries": "{% for k, v in m.items() %}{{ v if 'x' not in v }}{% endfor %}",
    "another entry": "{{ m['reasoning'] }}{{ m.content }}",
    "the loop's": "{{ '!' if loop.previtem and loop.previtem.content == 'x' }}{{ m.content }}",
    "the loop under another name": "{% set l = loop %}{{ '!' if l.nextitem.content == 'x' }}{{ m.content }}",
    "changed": "{{ '!' if loop.changed(m.content) }}{{ m.content }}",
    "in a namespace": "{% set ns = namespace(t='') %}{% set ns.t = m.content %}{{ ns.t if ns.t != 'x' }}",
    "in a block": "{% set t %}{{ m.content }}{% endset %}{{ '!' if 'x' in t }}{{ t }}",
    "in a macro": "{% macro f(t) %}{{ '!' if 'x' in t }}{{ t }}{% endmacro %}{{ f(m.content) }}",
    "in a list": "{% set t = [m.content] %}{{ t | first | upper }}",
    "filtered loop": "{% for n in messages if n.content != 'x' %}{{ n.content }}{% endfor %}",
    "letters": "{% for letter in m.content %}{{ letter if letter != 'x' }}{% endfor %}",
    "under another name": "{% set n = m %}{% set t = n.content | trim %}{{ '!' if t.startswith('x') }}{{ t }}",
    "shadowed": "{% set role = m.role %}{% set role = m.content %}{{ '!' if role == 'x' }}{{ m.content }}",
}


@pytest.mark.parametrize("template", COPYING.values(), ids=COPYING)
def test_templates_that_only_copy_are_known(template):
    assert only_copies(template)


@pytest.mark.parametrize("body", LOOKING.values(), ids=LOOKING)
def test_templates_that_look_into_a_text_are_known(body):
    assert not only_copies(f"{{% for m in messages %}}{body}{{% endfor %}}")


ROLES = [("user",), ("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user")]
TEXTS = st.text(st.sampled_from("x \n\t\u2003\u00a0é漢{}%0\ufdd2\ufdd3"), max_size=8)
TALKS = st.lists(
    st.sampled_from(ROLES).flatmap(lambda roles: st.tuples(*(st.builds(Turn, st.just(role), TEXTS) for role in roles))),
    min_size=1,
    max_size=6,
)


def written_or_refused(tokenizer, conversations):
    try:
        return write_chats(tokenizer, conversations, "2025-07-26")
    except ConfigurationError as error:
        return str(error)


@pytest.mark.parametrize("template", COPYING.values(), ids=COPYING)
def test_by_shape_and_one_by_one_are_the_same(template):
    """Whatever stands in the texts: blanks of all kinds, marks, Jinja; with the same spans, and the same refusals."""
    tokenizer = tiny_tokenizer(template)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(TALKS)
    def compare(conversations):
        by_shape = written_or_refused(tokenizer, conversations)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chat_template, "only_copies", lambda template: False)
            assert by_shape == written_or_refused(tokenizer, conversations)

    compare()


def test_a_shape_is_written_once_for_all(monkeypatch):
    tokenizer, calls = tiny_tokenizer(), []
    render = type(tokenizer).apply_chat_template
    monkeypatch.setattr(
        type(tokenizer), "apply_chat_template", lambda *args, **rest: calls.append(0) or render(*args, **rest)
    )
    write_chats(tokenizer, [[Turn("user", f"say {i}")] for i in range(500)], "2025-07-26")

    assert len(calls) == 1


def test_family_is_written_by_shape():
    """The control tokens stay the template's own."""
    family = FAMILIES["qwen-2-7b-instruct"]
    (written,) = write_chats(family_tokenizer(family), [[Turn("user", " a "), Turn("assistant", " b ")]], "2025-07-26")

    assert written.text.endswith("<|im_start|>user\n a <|im_end|>\n<|im_start|>assistant\n b <|im_end|>\n")
    assert [written.text[slice(*span)] for span in written.spans.values()] == ["a", "b"]


def test_a_template_too_deep_to_be_read_takes_the_old_way():
    assert not only_copies("{{ " + " + ".join(["messages[0].content"] * 400) + " }}")
