"""Values: true, 1, 1.0 and "yes" are one and the same, however a file writes them; so are the settings that ask for them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import tiny

from asft_lightning import DataError, Source
from asft_lightning.data.values import meaning

TRUE = [True, 1, 1.0, "true", "True", "TRUE", "1", "1.0", "1.00", " yes ", "Yes"]
FALSE = [False, 0, 0.0, -0.0, "false", "False", "0", "0.0", "no", "NO"]
NOTHING = [None, "", "  ", "None", float("nan"), "NaN"]


def rows_of(path, values, **told):
    records = [{"instruction": f"{i}", "output": "x", "column": value} for i, value in enumerate(values)]
    return Source(tiny.write_rows(path / "rows.jsonl", records), **told).load()


@pytest.mark.parametrize("wanted", TRUE + FALSE, ids=repr)
def test_where_asks_for_a_meaning(tmp_path, wanted):
    chosen = rows_of(tmp_path, TRUE + FALSE + NOTHING, where={"column": wanted})
    same = range(len(TRUE)) if wanted in TRUE else range(len(TRUE), len(TRUE + FALSE))
    assert [row.prompt for row in chosen] == [str(i) for i in same]


@pytest.mark.parametrize(
    ("wanted", "same", "other"),
    [
        (2, ["2", 2.0, "2.0", " 2 "], [20, "02", "2nd", 2.5, "-2"]),
        (-1.5, ["-1.5", "-1.50"], ["1.5", -1]),
        ("a", ["A", " a "], ["a b", ""]),
        ("007", [" 007"], [7, "7", "07"]),
        (9007199254740993, ["9007199254740993", "9007199254740993.0"], [9007199254740992, 9007199254740994]),
    ],
)
def test_where_asks_for_a_number_or_a_text(tmp_path, wanted, same, other):
    assert [row.prompt for row in rows_of(tmp_path, same + other, where={"column": wanted})] == [
        str(i) for i in range(len(same))
    ]


def test_flag_in_every_way_to_write_it(tmp_path):
    kinds = [row.kind for row in rows_of(tmp_path, TRUE + FALSE + NOTHING, flag="column")]
    assert kinds == ["harmful"] * len(TRUE) + ["benign"] * len(FALSE + NOTHING)


@pytest.mark.parametrize("value", ["perhaps", 2, 0.5, -1, "01", ["true"]])
def test_flag_that_says_neither(tmp_path, value):
    with pytest.raises(DataError, match=r"flag 'column' must be true or false, 1 or 0, yes or no, got"):
        rows_of(tmp_path, [value], flag="column")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(number=st.decimals(-(10**12), 10**12, places=4), text=st.text(max_size=12))
def test_numbers_are_compared_exactly_and_texts_by_their_letters(number, text):
    assert meaning(f"{number:f}") == meaning(number) == number
    assert meaning(text) == meaning(f" {text.casefold()} ")
