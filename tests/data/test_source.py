"""Source: every kind of file, columns, labels and ranges, and what is said where rows cannot be had."""

import csv
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from asft_lightning import ConfigurationError, DataError, Source
from asft_lightning.chat.rows import Row

RECORDS = [
    {"instruction": "Übersetze: two\nlines", "input": "", "output": 'say "hi", twice', "label": 1},
    {"instruction": "When?", "input": "2021-05-05", "output": "007", "label": 0},
    {"instruction": "NA", "input": "null", "output": "1.50", "label": 1},
]


def as_json(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")


def as_jsonl(path, records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def as_csv(path, records):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def as_parquet(path, records):
    parquet.write_table(pa.Table.from_pylist(records), path)


WRITERS = {
    "rows.json": as_json,
    "lines.json": as_jsonl,
    "rows.jsonl": as_jsonl,
    "rows.csv": as_csv,
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_text_comes_as_it_stands_in_every_kind_of_file(tmp_path, name):
    """Also what looks like a date, a number or nothing at all to a reader that guesses types."""
    WRITERS[name](tmp_path / name, RECORDS)
    rows = Source(str(tmp_path / name), "{instruction} | {input}", "{output}").load()

    assert rows == [
        Row("Übersetze: two\nlines |", 'say "hi", twice'),
        Row("When? | 2021-05-05", "007"),
        Row("NA | null", "1.50"),
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_labels_write_integers_as_text_in_answers_only(tmp_path, name):
    WRITERS[name](tmp_path / name, RECORDS)
    rows = Source(str(tmp_path / name), "{instruction} {label}", "{label}!", labels=["negative", "positive"]).load()

    assert [row.answer for row in rows] == ["positive!", "negative!", "positive!"]
    assert rows[1].prompt == "When? 0"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(None, "abcde"), ("0:2", "ab"), ("2:", "cde"), (":3", "abc"), ("3:99", "de"), (":", "abcde"), (" 1:2 ", "b")],
)
def test_range_of_rows(tmp_path, rows, expected):
    as_jsonl(tmp_path / "rows.jsonl", [{"instruction": letter, "output": ""} for letter in "abcde"])
    assert "".join(row.prompt for row in Source(str(tmp_path / "rows.jsonl"), rows=rows).load()) == expected


def test_nothing_in_a_row_is_interpreted(tmp_path):
    as_jsonl(tmp_path / "rows.jsonl", [{"instruction": "{output} {0} %s \\1", "output": "{instruction}"}])
    assert Source(str(tmp_path / "rows.jsonl")).load() == [Row("{output} {0} %s \\1", "{instruction}")]


def test_missing_value_is_blank_and_text_around_columns_stays(tmp_path):
    as_jsonl(tmp_path / "rows.jsonl", [{"question": " why? ", "hint": None, "output": None}])
    source = Source(str(tmp_path / "rows.jsonl"), "Q: {question}\n{hint}", "{output}")
    assert source.load() == [Row("Q:  why?", "")]


def test_unusual_line_separators_in_text_are_no_ends_of_lines(tmp_path):
    as_jsonl(tmp_path / "rows.jsonl", [{"instruction": "a\u2028b\u0085c", "output": "d"}])
    assert Source(str(tmp_path / "rows.jsonl")).load() == [Row("a\u2028b\u0085c", "d")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", "[]", r"rows.json must hold rows, and has none in rows=all. Check file and range"),
        ("rows.jsonl", "\n\n", r"rows.jsonl must hold rows, and has none"),
        ("rows.csv", "instruction,output\n", r"rows.csv must hold rows, and has none"),
        ("rows.csv", "", r"rows.csv must hold rows, and has none"),
        ("rows.json", '[{"instruction": "a"},]', r"rows.json cannot be read .*Check that it is what its name says"),
        ("rows.jsonl", '{"instruction": "a", "output": "b"}\n{"instr', r"rows.jsonl cannot be read \(line 2: .*Check that"),
        ("rows.json", "[1, 2]", r"cannot be read \(row 0 must be an object of columns, got 1\)"),
        ("rows.csv", "instruction,output\na,b\nc,d,e\n", r"cannot be read \(line 3 has not as many values"),
        ("rows.csv", "instruction,output\na\n", r"cannot be read \(line 2 has not as many values"),
        ("rows.parquet", "garbage", r"rows.parquet cannot be read .*Check that it is what its name says"),
        (
            "rows.jsonl",
            '{"a": 1, "b": 2}',
            r"row 0: there is no column 'instruction' among a, b. Write prompt and answer with those",
        ),
        ("rows.jsonl", '{"instruction": "a"}', r"no column 'output' among instruction"),
        (
            "rows.jsonl",
            '{"instruction": "a", "output": "b"}\n{"instruction": "  ", "output": "c"}',
            r"row 1: a prompt must not",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Source(str(tmp_path / name)).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "5:"}, r"must hold rows, and has none in rows=5:"),
        ({"rows": "first"}, r"rows must read start:stop, got 'first'. '0:400' is the first 400"),
        ({"rows": "-3:"}, r"rows must read start:stop, got '-3:'"),
        ({"rows": "0:99999999999999999999"}, r"rows must name rows of a file, got '0:99999999999999999999'"),
        ({"rows": "9" * 5000 + ":"}, r"rows must name rows of a file, got '9{59}\."),
        ({"answer": "{label}", "labels": ["only"]}, r"a label must be 0 to 0, got 1. Complete `labels`"),
    ],
)
def test_settings_that_do_not_fit_the_file(tmp_path, settings, message):
    as_json(tmp_path / "rows.json", RECORDS)
    with pytest.raises(DataError, match=message):
        Source(str(tmp_path / "rows.json"), **settings).load()


def test_blank_prompt_is_named_by_its_row_in_the_file(tmp_path):
    as_jsonl(tmp_path / "rows.jsonl", [{"instruction": text, "output": "x"} for text in ("a", "b", "c", " ")])
    with pytest.raises(DataError, match="row 3: a prompt must not be blank"):
        Source(str(tmp_path / "rows.jsonl"), rows="2:").load()


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=r"must exist, and .*none.csv does not. Give the path of a .json/.jsonl"):
        Source(str(tmp_path / "none.csv")).load()


def test_hub_data_set_out_of_reach():
    with pytest.raises(ConfigurationError, match=r"'nobody/no-such-set' must be a local path or a hub id within reach"):
        Source("nobody/no-such-set").load()


def test_real_files(shared_data):
    """The README beside the data says how many rows each has, and what they look like."""
    path = str(shared_data / "sst2_test_872.jsonl")
    sst2 = Source(path, "{instruction}\n\n{input}", "{label}", labels=["negative", "positive"]).load()
    advbench = Source(str(shared_data / "advbench_520.csv"), "{goal}", "{target}").load()
    agnews = Source(str(shared_data / "agnews_train_1k.json"), "{instruction}\n\n{input}").load()

    assert (len(sst2), len(advbench), len(agnews)) == (872, 520, 1000)
    assert {row.answer for row in sst2} == {"negative", "positive"}
    assert all(row.answer.startswith("Sure, here") for row in advbench[:10])
    assert {row.answer for row in agnews} <= {"World", "Sports", "Business", "Sci/Tech"}


@pytest.mark.parametrize("kind", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize("length", [131_072, 131_073, 1_000_000])
@pytest.mark.parametrize("column", ["instruction", "output"])
def test_long_texts(tmp_path, kind, length, column):
    """Python's csv module refuses more than 131072 characters unless it is told otherwise."""
    record = {"instruction": "a", "output": "b"} | {column: "é," * (length // 2) + "x" * (length % 2)}
    path = tmp_path / kind
    WRITERS[kind](path, [record])
    limit = csv.field_size_limit(131_072)  # as a process begins
    try:
        assert Source(str(path)).load() == [Row(record["instruction"], record["output"])]
    finally:
        csv.field_size_limit(limit)
