"""The first rows of several sources: by turns, and the others go on where one ends."""

import pytest
from kit.tiny import write_rows

from asft_lightning import DataError, Source
from asft_lightning.data.by_turns import first_rows


def prompts(folder, name, count):
    rows = [{"instruction": f"{name} {i}", "output": ""} for i in range(count)]
    return Source(write_rows(folder / f"{name}.jsonl", rows))


def asked(sources, count):
    return [row.prompt for row in first_rows(sources, count)]


def test_one_source_from_its_first(tmp_path):
    assert asked(prompts(tmp_path, "a", 3), 2) == ["a 0", "a 1"]


def test_several_by_turns_until_the_last_has_no_more(tmp_path):
    sources = [prompts(tmp_path, "a", 1), prompts(tmp_path, "b", 3), prompts(tmp_path, "c", 2)]
    assert asked(sources, 99) == ["a 0", "b 0", "c 0", "b 1", "c 1", "b 2"]
    assert asked(sources, 4) == ["a 0", "b 0", "c 0", "b 1"]


def test_no_source_is_an_error():
    with pytest.raises(DataError, match="one source or more, got an empty list"):
        first_rows([], 4)
