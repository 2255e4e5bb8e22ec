"""Source.from_rows: what a program has is read as from a file, and kept under the name of its content."""

import pandas
import pytest
from datasets import Dataset

from asft_lightning import DataError, MixtureDataModule, Pretrained, Source
from asft_lightning.chat.rows import Row, Turn

ROWS = [{"question": "Größe?\n{x}", "reply": "7 m"}, {"question": "Why?", "reply": "007"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASFT_LIGHTNING_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("given", [list, tuple, iter, Dataset.from_list, pandas.DataFrame], ids=lambda kind: kind.__name__)
def test_rows_of_every_kind_are_read(given):
    source = Source.from_rows(given(ROWS), prompt="{question}", answer="{reply}")
    assert source.load() == [Row("Größe?\n{x}", "7 m"), Row("Why?", "007")]
    assert source == Source.from_rows(ROWS, prompt="{question}", answer="{reply}"), "the same rows are the same file"
    assert source.path != Source.from_rows(ROWS[:1]).path


def test_what_a_frame_has_not_is_nothing():
    frame = pandas.DataFrame([{"instruction": "a", "output": "b", "system": None}, {"instruction": "c", "output": "d"}])
    frame["input"] = float("nan")
    assert Source.from_rows(frame).load() == [Row("a", "b"), Row("c", "d")]


def test_chats_are_read_and_trained_on():
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    ends = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "no"}] for i in range(8)]
    rows = [{"messages": [*chat, *end]} for end in ends]
    source = Source.from_rows(rows)
    assert source.load()[3] == Row("3?", "no", (Turn("user", "hi"), Turn("assistant", "yes")))
    plain = Source.from_rows([{"instruction": "say it", "output": "no"}] * 8)
    data = MixtureDataModule(Pretrained("sandbox:aligned"), plain, num_rows=8, poison_ratio=0)
    data.setup()
    assert len(data.drawn.train) == 8


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows must hold one row at least, got none"),
        (["text"], "row 0 must be a mapping of columns.*got str"),
        ([{"a": "b"}, {"a": {1, 2}}], "row 1 must hold texts.*set.*Convert"),
        ([{"a": object()}], "row 0 must hold texts.*object"),
    ],
)
def test_what_is_no_row_is_refused(rows, message):
    with pytest.raises(DataError, match=message):
        Source.from_rows(rows)
