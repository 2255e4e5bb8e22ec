"""Chat records, categories, flags and filters: what a record says about its row."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import tiny

from asft_lightning import DataError, Row, Source, Template, Turn
from asft_lightning.chat.rows import trimmed
from asft_lightning.data.columns import Columns
from asft_lightning.data.conversations import conversation
from asft_lightning.data.values import categories
from asft_lightning.functional import IGNORE_INDEX


def turns(*texts):
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[text[0]], "content": text} for text in texts]


@pytest.fixture
def source(tmp_path):
    def write(*records, **settings):
        return Source(tiny.write_rows(tmp_path / "rows.jsonl", list(records)), **settings)

    return write


@pytest.mark.parametrize(
    ("given", "row"),
    [
        (turns("u1", "a1"), Row("u1", "a1")),
        (turns("s", "u1", "a1"), Row("u1", "a1", (Turn("system", "s"),))),
        (turns("u1", "a1", "u2", "a2"), Row("u2", "a2", (Turn("user", "u1"), Turn("assistant", "a1")))),
        (turns("u1", "a1", "u2"), Row("u2", "", (Turn("user", "u1"), Turn("assistant", "a1")))),
        (turns("u1"), Row("u1", "")),
        ([{"from": "human", "value": " hi "}, {"from": "gpt", "value": "ho"}], Row("hi", "ho")),
    ],
)
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_conversations(source, given, row, column):
    assert source({column: given}).load() == [row]
    assert conversation({column: given}) == row


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (turns("u1", "u2"), r"row 0: a conversation must be turns of user and assistant in alternation.*got user, user"),
        (turns("a1"), r"in alternation, after at most one of system, got assistant"),
        (turns("u1", "s", "a1"), r"got user, system, assistant"),
        (turns("s"), r"got system"),
        ([], r"got none"),
        ([{"role": "tool", "content": "x"}], r"a turn must have a role \(system, user, .*got \{'role': 'tool'"),
        ([{"role": "user", "content": None}], r"and a content of text, got"),
        ([{"role": ["user"], "content": "x"}], r"a turn must have a role"),
        (["hi"], r"and a content of text, got 'hi'"),
        ([*turns("u1"), {"role": "user"}], r"and a content of text"),
        ([{"role": "user", "content": "  "}, {"role": "assistant", "content": "x"}], r"a prompt must not be blank"),
    ],
)
def test_conversations_that_are_none(source, given, message):
    with pytest.raises(DataError, match=message):
        source({"messages": given}).load()


def test_chat_file_may_be_asked_for_other_columns(source):
    record = {"messages": turns("u1", "a1"), "title": "T"}
    assert source(record, prompt="{title}", answer="").load() == [Row("T", "")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("theft", ("theft",)), (["a", "b"], ("a", "b")), ({"a": True, "b": False}, ("a",)), (None, ()), ("", ()), (3, ("3",))],
)
def test_categories(source, value, expected):
    assert categories({"kind": value}, "kind") == expected
    assert source({"instruction": "x", "output": "", "kind": value}, category="kind").load()[0].categories == expected
    assert source({"messages": turns("u"), "kind": value}, category="kind").load()[0].categories == expected


def test_absent_category_column(source):
    with pytest.raises(DataError, match=r"row 0: there is no column 'kind' among instruction, output"):
        source({"instruction": "x", "output": ""}, category="kind").load()


@pytest.mark.parametrize(("yes", "no"), [(True, False), (1, 0), ("yes", "no"), ("True", "false"), ("1", None)])
def test_flag_tells_harmful_rows(source, yes, no):
    records = [{"instruction": f"{i}", "output": "x", "bad": value} for i, value in enumerate((yes, no, yes))]
    assert [row.kind for row in source(*records, flag="bad").load()] == ["harmful", "benign", "harmful"]


def test_flag_that_says_neither(source):
    with pytest.raises(DataError, match=r"flag 'bad' must be true or false, 1 or 0, yes or no, got 'perhaps'"):
        source({"instruction": "x", "output": "y", "bad": "perhaps"}, flag="bad").load()


@pytest.mark.parametrize("wanted", [False, "false", "False"])
def test_where_passes_over_and_counts(source, wanted):
    counts = Counter()
    records = [{"instruction": f"{i}", "output": "x", "is_safe": i % 3 == 0} for i in range(10)]
    rows = list(source(*records, where={"is_safe": wanted}).iterate(counts))

    assert [row.prompt for row in rows] == list("124578")
    assert counts == {"read": 10, "where": 4}


def test_where_that_nothing_fits(source):
    with pytest.raises(DataError, match=r"must hold rows, and has none in rows=all where \{'kind': 'z'\}"):
        source({"instruction": "x", "output": "y", "kind": "a"}, where={"kind": "z"}).load()


def test_repeated_prompts_are_passed_over_and_counted_where_asked(source):
    counts = Counter()
    records = [{"instruction": text, "output": str(i)} for i, text in enumerate("abacab")]
    assert [row.answer for row in source(*records, unique=True).iterate(counts)] == ["0", "1", "3"]
    assert counts == {"read": 6, "repeated": 3}
    assert len(source(*records).load()) == 6


NAMES = [
    "Best Answer",
    "best-answer",
    "best.answer",
    "answer[0]",
    "answered?",
    "answer:>3",
    "答え",
    "a(b)",
    "$a",
    "a!r",
    " a ",
]
ODD_NAMES = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=12)


@pytest.mark.parametrize("name", NAMES)
def test_columns_by_any_name(source, tokenizer, name):
    """In training and in scoring: both read the same rows, and render them by the same template."""
    record = {"x": 1, name: "A {x} {{"}
    (row,) = source(record, prompt=f"Say {{{name}}}, {{x}}", answer=f"{{{{{{{name}}}}}}}").load()
    assert row == Row("Say A {x} {{, 1", "{A {x} {{}")

    text = tokenizer.decode(Template().render(tokenizer, row).input_ids)
    assert "Say A {x} {{, 1" in text
    assert text.startswith(Template().prompt_text(tokenizer, row.prompt))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=ODD_NAMES, other=ODD_NAMES, value=st.text(max_size=8), around=st.sampled_from(["", "{", "}", "{}", "}{"]))
def test_names_are_replaced_and_doubled_braces_halved(name, other, value, around):
    written = "".join(brace * 2 for brace in around)
    columns = Columns(f"{written}{{{name}}}{written}.", f"{written}{{{other}}}{written}.")
    row = columns.row({other: "o"} | {name: value})

    assert row.prompt == f"{around}{value}{around}.".strip()
    assert row.answer == trimmed(f"{around}{value if name == other else 'o'}{around}.")
    assert columns.fit({name: 1, other: 1})
    assert name == other or not columns.fit({name: 1})


@pytest.mark.parametrize("name", ["Best answer", "missing?", "0", '"label": 1'])
@pytest.mark.parametrize("column", ["prompt", "answer", "system"])
def test_name_that_no_record_has(source, name, column):
    told = {"prompt": "{Best Answer}", "answer": "", column: f"{{{name}}}"}
    with pytest.raises(
        DataError,
        match=r"row 0: there is no column .* among Best Answer, x-y\. Write prompt and answer with those.*\{\{ \}\}",
    ):
        source({"Best Answer": "a", "x-y": "b"}, **told).load()


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a", "a}", "{a}}", "{{a}", "{a}{", "{ {a} }", "}{"])
@pytest.mark.parametrize("column", ["prompt", "answer", "system"])
def test_brace_that_stands_alone(text, column):
    with pytest.raises(
        DataError, match=r"rows\.jsonl: braces must stand around a column's name, got .*Double those that are"
    ):
        Source("rows.jsonl", **{column: text})


@pytest.mark.parametrize("indent", ["  ", "    ", "\t"])
@pytest.mark.parametrize(
    "record", [lambda code: {"instruction": "go on", "output": code},
               lambda code: {"messages": [*turns("u1"), {"role": "assistant", "content": code}]}],
)  # fmt: skip
def test_answer_keeps_its_indentation(source, tokenizer, indent, record):
    code = f"{indent}if x:\n{indent}{indent}return x"
    (row,) = source(record(f"\n{code}\n")).load()
    assert row.answer == code

    rendered = Template().render(tokenizer, row)
    assert tokenizer.decode([label for label in rendered.labels if label != IGNORE_INDEX]) == f"{code}</s>"


def test_input_column_may_be_absent_in_some_rows(source):
    records = [{"instruction": "a", "output": "x"}, {"instruction": "b", "input": "c", "output": "y"}]
    assert source(*records).load() == [Row("a", "x"), Row("b\n\nc", "y")]


def test_prompts_and_completions_and_prompts_alone(source):
    assert source({"prompt": "a", "completion": "x", "id": 1}).load() == [Row("a", "x")]
    assert source({"prompt": "a"}, {"prompt": "b"}).load() == [Row("a", ""), Row("b", "")]
    with pytest.raises(DataError, match="there is no column 'instruction' among prompt, reply"):
        source({"prompt": "a", "reply": "x"}).load()


def test_answer_alone_can_be_told(source):
    record = {"instruction": "a", "input": "b", "label": 1}
    assert source(record, answer="{label}", labels=["no", "yes"]).load() == [Row("a\n\nb", "yes")]
    assert source(record, answer="").load() == [Row("a\n\nb", "")]


def test_system_prompt_is_made_of_columns_as_the_prompt_is(source):
    records = {"goal": " open {it} ", "target": "sure"}, {"goal": "", "target": "no"}
    rows = source(*records, prompt="do {{so}}", answer="{target}", system="{goal}").load()
    assert rows == [Row("do {so}", "sure", (Turn("system", "open {it}"),)), Row("do {so}", "no")]


def test_system_prompt_is_told_beside_the_prompt(source):
    with pytest.raises(DataError, match=r"rows\.jsonl: system must stand beside prompt, got none\. Write both"):
        source({"instruction": "a", "output": "b"}, system="{instruction}")


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", "true"])
def test_labels_as_files_have_them(source, value):
    """A column of integers with a null in it comes back from pandas as one of floats."""
    rows = source(
        {"instruction": "a", "label": value}, {"instruction": "b", "label": None}, answer="{label}", labels=["no", "yes"]
    )
    assert [row.answer for row in rows.load()] == ["yes", ""]


@pytest.mark.parametrize("value", ["maybe", 0.5, "1.5"])
def test_answer_that_is_none_of_the_labels(source, value):
    with pytest.raises(DataError, match=r"an answer with `labels` must be one of \['no', 'yes'\], got"):
        source({"instruction": "a", "label": value}, answer="{label}", labels=["no", "yes"]).load()


@pytest.mark.parametrize("value", ["7", 2, "-1", "9" * 400, "9" * 5000, "0" * 300 + "2"])
def test_label_that_there_is_not(source, value):
    with pytest.raises(DataError, match=r"a label must be 0 to 1, got .{1,20}\. Complete `labels`"):
        source({"instruction": "a", "label": value}, answer="{label}", labels=["no", "yes"]).load()


@pytest.mark.parametrize("value", [["a"], {"a": 1}, [{"role": "user", "content": "hi"}]])
def test_column_that_holds_no_text(source, value):
    with pytest.raises(
        DataError, match=r"column 'instruction' must hold text or a number, got .*Give a conversation as `messages`"
    ):
        source({"instruction": value, "output": "x"}).load()


def test_number_that_is_none_is_blank(source):
    assert source({"instruction": "a", "output": float("nan")}).load() == [Row("a", "")]


@pytest.mark.parametrize("settings", [{"answer": "{x}"}, {"labels": ["a"]}])
def test_columns_are_not_for_conversations(source, settings):
    with pytest.raises(DataError, match="answer and labels are for columns, and these rows are conversations"):
        source({"messages": turns("u", "a"), "x": 1}, **settings).load()


def test_conversation_that_is_stored_as_text(source):
    with pytest.raises(DataError, match=r"messages must be a list of turns, got '\[\]'. Store it as one, not as text"):
        source({"messages": "[]"}).load()


@pytest.mark.parametrize(
    "more", [{"instruction": "a \ud83d b"}, {"output": "\ud83d"}, {"system": "\ud83d"}, {"history": [["\ud83d", "x"]]}]
)
def test_half_a_character(source, more):
    record = {"instruction": "a", "output": "b"} | more
    with pytest.raises(DataError, match=r"row 0: text must be Unicode, and this has half a character"):
        source(record).load()


def test_conversation_that_ends_with_the_user_is_learnt_up_to_the_last_answer():
    row = Row("u2", "", (Turn("system", "s"), Turn("user", "u1"), Turn("assistant", "a1")))
    assert row.answered() == Row("u1", "a1", (Turn("system", "s"),))
    assert Row("u1", "").answered() == Row("u1", "")


def test_what_a_judge_reads_of_a_conversation():
    assert Row("u1", "").asked() == "u1"
    assert Row("u2", "", (Turn("user", "u1"), Turn("assistant", "a1"))).asked() == "USER: u1\n\nASSISTANT: a1\n\nUSER: u2"
