"""Thoughts and answers, in the marks of several families of models, opened by the model or by the prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asft_lightning import split_thought
from asft_lightning.chat.rows import trimmed

MARKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
]
SAID = st.text(st.characters(exclude_characters="<>[]◁▷", exclude_categories=["Cs"]), max_size=30)
GAPS = st.sampled_from(["", " ", "\n", "\n\n", " \n \n"])
PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)


@PROPERTY
@given(marks=st.sampled_from(MARKS), thoughts=st.lists(SAID, min_size=1, max_size=3), gap=GAPS, answer=SAID)
def test_answer_is_what_follows_thoughts(marks, thoughts, gap, answer):
    opened, closed = marks
    written = gap.join(f"{opened}{thought}{closed}" for thought in thoughts) + gap + answer
    thought = "".join(f"{opened}{thought}{closed}" for thought in thoughts)

    assert split_thought(written) == (thought, trimmed(gap * len(thoughts) + answer))
    assert split_thought("\n" + written).answer == split_thought(written).answer


@PROPERTY
@given(marks=st.sampled_from(MARKS), thought=SAID, gap=GAPS, answer=SAID)
def test_thought_that_the_prompt_opened(marks, thought, gap, answer):
    opened, closed = marks
    written = thought + closed + gap + answer

    for prompt in ("", f"Hi\n{opened}", f"Hi\n{opened}\n"):
        assert split_thought(written, prompt) == (thought + closed, trimmed(gap + answer))


@PROPERTY
@given(marks=st.sampled_from(MARKS), thought=SAID.filter(bool), before=SAID.map(lambda text: f"{text}done"))
def test_thought_that_does_not_end_leaves_no_answer(marks, thought, before):
    opened, closed = marks

    assert split_thought(f"\n{opened}{thought}").answer == ""
    assert split_thought(f"{opened}{thought}{closed}{opened}{thought}").answer == ""
    assert split_thought(thought, f"Hi\n{opened}\n") == (thought, "")
    assert split_thought(f"{opened}{thought}{closed}{before}{opened}").answer == trimmed(
        before + opened
    )  # is only mentioned


@PROPERTY
@given(text=st.text(max_size=40), prompt=st.sampled_from(["", "Hi", "<think>\n\n</think>\n\n", "What is <think>?"]))
def test_text_without_a_thought_stays_as_it_is(text, prompt):
    assert split_thought(text, prompt) == ("", text)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>\n\n</think>\n\nI apologize, but no.", "I apologize, but no."),
        ("Well. <think>Hm.</think>It is 4.", "Well. It is 4."),
        ("<think>a</think>Close it with </think>, too.", "Close it with </think>, too."),
        ("<think>a <think> b</think>c", "c"),
        ("<think>a</think>\n\n    return x\n", "    return x"),
        ("Use <thinker> and a < b > c.", "Use <thinker> and a < b > c."),
        ("<think>a</think>", ""),
        ("", ""),
    ],
)
def test_answers(written, answer):
    assert split_thought(written).answer == answer


@pytest.mark.parametrize("indent", ["  ", "    ", "\t", "\t\t", " \t"])
@pytest.mark.parametrize("before", ["", "\n", " \n\t\n", "\r\n"])
@pytest.mark.parametrize("after", ["", "\n", " \n "])
def test_trimmed_text_keeps_its_indentation(indent, before, after):
    code = f"{indent}if x:\n{indent}    return x"
    assert trimmed(before + code + after) == code


@pytest.mark.parametrize(("text", "expected"), [(" yes ", "yes"), ("\n yes", "yes"), (" ", ""), ("", ""), ("\n\n\t\n", "")])
def test_trimmed_text_that_is_no_code(text, expected):
    assert trimmed(text) == expected
