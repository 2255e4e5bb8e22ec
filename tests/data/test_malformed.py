"""Files that nobody meant to write: each ends in rows, or in one clear error, and nothing is lost without a count."""

import json
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import tiny
from pyarrow import parquet

from asft_lightning import AsFTError, MixtureDataModule, Row, Source
from asft_lightning.chat.template import Template
from asft_lightning.data import Pool, mix
from asft_lightning.functional import IGNORE_INDEX

MANY = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ODD_TEXT = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(), max_size=5),
    st.text(st.characters(categories=["Cs", "L"]), max_size=5),
    st.sampled_from(
        ["", " ", "\x00", "\ud7ff\ue000", "{output}", "%s", "</s>", "\u2028", "'; --", "../../etc", "🙂" * 9, "NaN"]
    ),
)
ODD_VALUE = st.recursive(
    st.one_of(ODD_TEXT, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD_TEXT, inner, max_size=3)),
    max_leaves=6,
)
COLUMNS = st.sampled_from(
    ["instruction", "input", "output", "messages", "label", "flag", "category", "system", "history", "tools"]
)
TURN = st.one_of(
    ODD_VALUE,
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", 3]), "content": ODD_VALUE},
        optional={"weight": ODD_VALUE, "tool_calls": ODD_VALUE},
    ),
)
RECORD = st.one_of(
    st.dictionaries(COLUMNS, ODD_VALUE, max_size=5),
    st.fixed_dictionaries({"instruction": ODD_TEXT, "output": ODD_TEXT}, optional={"input": ODD_VALUE, "flag": ODD_VALUE}),
    st.fixed_dictionaries(
        {"instruction": ODD_TEXT, "output": ODD_TEXT},
        optional={"system": ODD_TEXT, "history": st.lists(st.lists(ODD_TEXT, min_size=2, max_size=2), max_size=2)},
    ),
    st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)}, optional={"system": ODD_VALUE}),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.sampled_from(["{instruction}", "{missing}", "", "{}", "{{{instruction}}}", "{output} {input}"]),
        "answer": st.sampled_from(["", "{output}", "{label}", "{0}"]),
        "labels": st.lists(st.text(max_size=3), max_size=3),
        "flag": st.just("flag"),
        "category": st.just("category"),
        "where": st.dictionaries(COLUMNS, ODD_VALUE, max_size=1),
        "rows": st.one_of(st.text(alphabet="0123:-a ", max_size=4), st.just("1:2")),
        "unique": st.booleans(),
        "streaming": st.booleans(),
    },
)


def outcome(path, arguments, tokenizer=None):
    """Counted rows of a file, also as token ids, or the error that says why there are none; anything else fails the test."""
    counts = Counter()
    try:
        source = Source(str(path), **arguments)
        rows = list(source.iterate(counts))
    except AsFTError as error:
        assert len(str(error)) > 20
        return None
    assert all(isinstance(row, Row) and row.prompt.strip() and isinstance(row.answer, str) for row in rows)
    assert len(rows) == counts["read"] - counts["where"] - counts["repeated"] > 0
    for row in rows if tokenizer else ():
        Template("plain").render(tokenizer, row.answered())
        Template("chat").prompt_ids(tokenizer, row.prompt, row.history)
    return rows


@MANY
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".json", ".jsonl", ".csv", ".parquet"]))
def test_any_bytes(tmp_path, content, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    outcome(path, {})


@MANY
@given(records=st.lists(RECORD, max_size=5), arguments=SETTINGS, as_list=st.booleans())
def test_any_records_as_json(tmp_path, tokenizer, records, arguments, as_list):
    path = tmp_path / "rows.json"
    lines = json.dumps(records) if as_list else "\n".join(json.dumps(record) for record in records)
    path.write_text(lines, encoding="utf-8")
    outcome(path, arguments, tokenizer)


@MANY
@given(
    lines=st.lists(st.text(alphabet=st.sampled_from('instruction,output"\n\r\t\x00é{} '), max_size=40), max_size=5),
    arguments=SETTINGS,
)
def test_any_lines_as_csv(tmp_path, lines, arguments):
    path = tmp_path / "rows.csv"
    path.write_text("instruction,output\n" + "\n".join(lines), encoding="utf-8")
    outcome(path, arguments)


@MANY
@given(cut=st.floats(0, 1), flipped=st.integers(0, 255), at=st.floats(0, 1))
def test_damaged_parquet(tmp_path, cut, flipped, at):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist([{"instruction": f"a{i}", "output": "b"} for i in range(20)]), path)
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] = flipped
    path.write_bytes(content[: int(cut * len(content))] if cut < 0.9 else content)
    outcome(path, {})


@MANY
@given(
    rows=st.lists(
        st.tuples(st.text(min_size=1, max_size=40).filter(str.strip), ODD_TEXT).map(lambda texts: Row(*texts)),
        min_size=1,
        max_size=12,
    ),
    num_rows=st.one_of(st.none(), st.integers(-2, 14)),
    poison_ratio=st.one_of(st.floats(-0.5, 1.5), st.just(0.0), st.just(0.5)),
    max_length=st.integers(2, 80),
    style=st.sampled_from(["chat", "plain", "llama2"]),
)
def test_any_mixture(tokenizer, rows, num_rows, poison_ratio, max_length, style):
    """Every record is drawn, passed over with a count, or not needed; what is drawn has something to learn."""
    template = Template(style, max_length=max_length)
    pools = [Pool(rows, "benign", "b")], [Pool(rows, "harmful", "h")]
    try:
        mixture = mix(
            *pools, lambda rows: template.render_all(tokenizer, rows), num_rows=num_rows, poison_ratio=poison_ratio
        )
    except AsFTError as error:
        assert len(str(error)) > 20
        return
    assert all(set(example.labels) != {IGNORE_INDEX} for example in mixture.train)
    assert all(0 < len(example.input_ids) == len(example.labels) <= max_length for example in mixture.train)
    benign, harmful = mixture.pools
    assert len(mixture.train) == num_rows or num_rows is None
    if num_rows is None:
        assert benign.counts["drawn"] + benign.counts["blank_answer"] + benign.counts["too_long"] == len(rows)
    assert sum(example.harmful for example in mixture.train) == harmful.counts["drawn"]


@pytest.mark.parametrize(
    "records", [[{"instruction": "x", "output": "y"}], [{"messages": [{"role": "user", "content": "x"}]}]]
)
def test_what_a_generator_made_reaches_the_module_as_an_error_too(pretrained, tmp_path, records):
    data = MixtureDataModule(
        pretrained, Source(tiny.write_rows(tmp_path / "few.jsonl", records)), num_rows=5, poison_ratio=0
    )
    with pytest.raises(AsFTError, match="5 benign rows are needed"):
        data.setup()
