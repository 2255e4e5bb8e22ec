"""The date in a chat template: the run's own, not the clock's."""

from datetime import datetime

import pytest
from kit.chat_templates import SMALL, on_leap_day, small_template, small_tokenizer

from asft_lightning import Row, Template
from asft_lightning.chat.dates import dated

DAY = "2024-02-03"
FORMATS = ["%d %b %Y", "%Y-%m-%d", "%-d.%-m.%y", "%A, %B %e", "%H:%M", "%F", "%j"]


def test_date_of_the_template_in_rows_and_prompts():
    tokenizer, template = small_tokenizer(SMALL["dated"]), Template(date=DAY)
    text = tokenizer.decode(template.render(tokenizer, Row("Hi", "Ho")).input_ids)

    assert text == "Today is 03 February 2024.\n<|user|>Hi<|end|>\n<|assistant|>Ho<|end|>"
    assert text.startswith(template.prompt_text(tokenizer, "Hi"))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("day", [DAY, "2025-11-30", "2026-10-07"])
def test_date_is_written_in_any_form(day, form):
    """Also where the form is computed, and within a macro: as Python writes the first moment of the day."""
    form_in_parts = f"{form[:2]}' ~ '{form[2:]}"
    for text in (
        f"{{{{ strftime_now('{form_in_parts}') }}}}",
        f"{{% macro f() %}}{{{{ strftime_now('{form}') }}}}{{% endmacro %}}{{{{ f() }}}}",
        f"{{% if strftime_now is defined %}}{{% set d = strftime_now('{form}') %}}{{{{ d }}}}{{% endif %}}",
    ):
        rendered = Template(date=day).prompt_text(small_tokenizer(small_template(before=text)), "Hi")
        assert rendered.split("<|user|>")[0] == datetime.fromisoformat(day).strftime(form)


def test_nothing_else_of_a_template_changes():
    """Nor a line break at its beginning."""
    template = "\n  {%- set x = strftime_now('%d') %}\n \n" + SMALL["plain"]
    tokenizer = small_tokenizer(template)
    messages = [{"role": "user", "content": "Hi"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.apply_chat_template(messages, chat_template=dated(template, DAY), tokenize=False) == expected
    assert dated(SMALL["plain"], DAY) == SMALL["plain"]


def test_day_on_which_it_was_made_is_the_default():
    with on_leap_day():
        template = Template()
    assert template.day == "2024-02-29"
    assert "Today is 29 February 2024." in template.prompt_text(small_tokenizer(SMALL["dated"]), "Hi")
