"""What stands beside the text: system prompts, history, weights, silence and calls are rendered, honoured or counted."""

import json
from collections import Counter

import pytest
from kit import tiny

from asft_lightning import DataError, MixtureDataModule, Row, Source, Template, Turn
from asft_lightning.chat.template import STYLES
from asft_lightning.data.conversations import conversation
from asft_lightning.functional import IGNORE_INDEX

INSTRUCTION = {"instruction": "And then?", "input": "", "output": "It ended."}
STORY = [["What was it?", "A storm."], ["When?", "At noon."]]
TOLD = tuple(Turn(role, said) for pair in STORY for role, said in zip(("user", "assistant"), pair, strict=True))


def turns(*said, **last):
    """Turns of user and assistant by turns; ``last`` is what the last one holds besides."""
    written = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    written[-1] |= last
    return written


def weighted(*pairs):
    """Turns of user and assistant, of which the assistant's have these weights; None for none."""
    return [
        turn
        for i, (answer, weight) in enumerate(pairs)
        for turn in turns(f"u{i}", answer, **({} if weight is None else {"weight": weight}))
    ]


def load(folder, record, **told):
    return Source(tiny.write_rows(folder / "rows.jsonl", [record]), **told).load()[0]


def learnt(tokenizer, row, style="chat"):
    rendered = Template(style).render(tokenizer, row.answered())
    return tokenizer.decode([label for label in rendered.labels if label != IGNORE_INDEX]).replace(" ", "")


@pytest.mark.parametrize("system", [{}, {"system": "Be brief."}, {"system": ""}, {"system": None}])
@pytest.mark.parametrize("history", [{}, {"history": STORY}, {"history": []}, {"history": None}, {"history": STORY[:1]}])
@pytest.mark.parametrize("style", ["chat", *STYLES])
def test_instruction_files_with_what_was_said_before(tokenizer, tmp_path, system, history, style):
    row = load(tmp_path, INSTRUCTION | system | history)
    told = [Turn("system", "Be brief.")] if system.get("system") else []
    assert row == Row("And then?", "It ended.", (*told, *TOLD[: 2 * len(history.get("history") or [])]))

    text = tokenizer.decode(Template(style).render(tokenizer, row).input_ids)
    places = [text.index(turn.content) for turn in row.history]
    assert places == sorted(places)
    assert text.index("And then?") > max(places, default=-1)
    assert learnt(tokenizer, row, style).count("</s>") == 1 + len(row.history) // 2


@pytest.mark.parametrize(
    "history", ["once", ["What was it?", "A storm."], [["What was it?"]], [["a", "b", "c"]], [["a", None]], {"a": "b"}, 3]
)
def test_history_that_is_none(tmp_path, history):
    with pytest.raises(DataError, match=r"row 0: (history must be a list of \[user, assistant\] pairs|a turn must have)"):
        load(tmp_path, INSTRUCTION | {"history": history})


def test_columns_that_are_told_are_all_that_is_read(tmp_path):
    record = {"question": "Q", "output": "A", "history": "of Rome", "system": 3}
    assert load(tmp_path, record, prompt="{question} {history}") == Row("Q of Rome", "A")


@pytest.mark.parametrize("column", ["messages", "conversations"])
@pytest.mark.parametrize("own", [None, "Be brief.", " Be brief.\n"])
def test_system_prompt_beside_the_turns(tmp_path, column, own):
    said = ([{"from": "system", "value": own}] if own else []) + [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Ho"},
    ]
    assert load(tmp_path, {column: said, "system": "Be brief."}) == Row("Hi", "Ho", (Turn("system", own or "Be brief."),))


@pytest.mark.parametrize(
    ("said", "system", "message"),
    [
        (
            [{"role": "system", "content": "Be kind."}],
            "Be brief.",
            r"must have one system prompt, got 'Be kind.' and 'Be brief.'",
        ),
        ([], ["Be brief."], r"system must be text, got \['Be brief.'\]"),
        ([], 3, r"system must be text, got 3"),
    ],
)
def test_system_prompt_that_cannot_be(tmp_path, said, system, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, {"messages": [*said, *turns("Hi", "Ho")], "system": system})


@pytest.mark.parametrize("zero", [0, 0.0, False, "0"])
@pytest.mark.parametrize("one", [None, 1, 1.0, True, float("nan")])
@pytest.mark.parametrize("style", ["chat", *STYLES])
def test_turn_of_weight_zero_is_seen_and_not_learnt(tokenizer, zero, one, style):
    row = conversation({"messages": weighted(("a0", one), ("b1", zero), ("c2", one))})
    text = tokenizer.decode(Template(style).render(tokenizer, row).input_ids)

    assert learnt(tokenizer, row, style) == "a0</s>c2</s>"
    assert text.index("a0") < text.index("b1") < text.index("c2")


@pytest.mark.parametrize("style", ["chat", *STYLES])
def test_what_follows_the_last_learnt_turn_teaches_nothing(tokenizer, style):
    row = conversation({"messages": weighted(("a0", 0), ("b1", 1), ("c2", 0), ("d3", 0))})
    text = tokenizer.decode(Template(style).render(tokenizer, row.answered()).input_ids)

    assert learnt(tokenizer, row, style) == "b1</s>"
    assert "a0" in text
    assert "c2" not in text
    assert row.prompt == "u3"
    assert row.answer == ""


@pytest.mark.parametrize("weight", [0.5, 2, -1, "half", [1]])
def test_weight_that_is_no_choice(weight):
    with pytest.raises(DataError, match=r"a turn's weight must be 1 or, for one that is not to be learnt, 0, got"):
        conversation({"messages": turns("Hi", "Ho", weight=weight)})


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
@pytest.mark.parametrize("style", ["chat", *STYLES])
def test_silence_is_not_learnt(tokenizer, blank, style):
    counts = Counter()
    row = conversation({"messages": turns("u0", blank, "u1", "b1")}, counts=counts)

    assert learnt(tokenizer, row, style) == "b1</s>"
    assert counts == {"blank_turns": 1}


BESIDE = {
    "tool_calls": [{"function": {"name": "add"}}],
    "reasoning_content": "Hm.",
    "function_call": {"name": "add"},
    "train": True,
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_not_read_is_counted_and_named(pretrained, tmp_path, name):
    said = [{"messages": turns(f"u{i}", "a", **{name: BESIDE[name] if i < 3 else None})} for i in range(8)]
    data = MixtureDataModule(pretrained, Source(tiny.write_rows(tmp_path / "calls.jsonl", said)), num_rows=8, poison_ratio=0)
    with pytest.warns(UserWarning, match=rf"turns hold what is not trained on: {name} \(3\)\. Write into their content"):
        described = data.describe()

    assert json.loads(json.dumps(described))["sources"][0]["counts"][f"unread {name}"] == 3


def test_tools_beside_the_turns_are_named():
    counts = Counter()
    conversation({"messages": turns("Hi", "Ho"), "tools": [{"name": "add"}], "functions": None, "id": 7}, counts=counts)
    assert counts == {"unread tools": 1}


def test_rows_of_which_nothing_is_learnt_are_passed_over_and_counted(pretrained, tmp_path):
    said = [{"messages": weighted((f"a{i}", i % 2), ("b", 0))} for i in range(8)]
    data = MixtureDataModule(pretrained, Source(tiny.write_rows(tmp_path / "w.jsonl", said)), num_rows=None, poison_ratio=0)
    counts = data.describe()["sources"][0]["counts"]

    assert (counts["drawn"], counts["blank_answer"]) == (4, 4)
    assert {example.row.answer for example in data.mixture.train} == {"a1", "a3", "a5", "a7"}
