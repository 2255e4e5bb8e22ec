"""WISE's records: what a file must hold, and the benchmark's own files where they are at hand."""

import json
from collections import Counter

import pytest
from kit.wise import record, records, save_records

from asft_lightning import ConfigurationError
from asft_lightning.errors import DataError
from asft_lightning.evaluation.wise import WiseRecord, by_subcategory, read_records
from asft_lightning.metrics import WISE_VERSIONS


def test_files_of_a_folder_by_id(tmp_path):
    save_records(tmp_path / "a.json", [record(401, "time"), record(2, "culture", " Art ")])
    save_records(tmp_path / "b.json", [record(1, "culture", "Art")])
    found = read_records(str(tmp_path), "legacy")

    assert found[1] == WiseRecord(2, "prompt 2", "explanation 2", "culture", "Art")
    assert by_subcategory(found) == {"culture: Art": [1, 2], "time: Some": [401]}
    assert read_records(str(tmp_path / "[ab].json"), "legacy") == found
    assert read_records(str(tmp_path / "b.json"), "legacy") == found[:1]


@pytest.mark.parametrize(("content", "message"), [
    ({}, r"must hold a list of records, got dict"),
    (["x"], r"record 0 of .*bad.json must have the texts Prompt, Explanation, Category, Subcategory, got 'x'"),
    ([record(1, "culture"), record(2, "culture") | {"Prompt": ""}], r"record 1 of .* must have the texts Prompt"),
    ([record("1", "culture")], r"whole number as prompt_id .*got '1' and 'Cultural knowledge'"),
    ([record(True, "culture")], r"whole number as prompt_id .*got True"),
    ([record(1, "culture") | {"Category": "Sports"}], r"a Category among cultural knowledge, .*got 1 and 'Sports'"),
    ([record(530, "space")], r"is 530, of space, which in WISE's legacy version has the ids 568 .*--version verified"),
    ([record(1001, "chemistry")], r"is 1001, of chemistry, which in WISE's legacy version has the ids 901 to 1000"),
    ([record(1, "culture"), record(1, "culture")], r"must stand once, got 1 in .*bad.json and in .*bad.json"),
])  # fmt: skip
def test_what_is_no_record(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_records(save_records(tmp_path / "bad.json", content), "legacy")


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match=r"there is none at .*nothing.json. Name a file, or their folder"):
        read_records(str(tmp_path / "nothing.json"), "legacy")
    (tmp_path / "half.json").write_text(json.dumps(records())[:-1])
    with pytest.raises(ConfigurationError, match=r"half.json cannot be read as JSON \(Expecting"):
        read_records(str(tmp_path), "legacy")


@pytest.mark.parametrize("version", WISE_VERSIONS)
def test_all_of_the_benchmark(shared_data, version):
    found = read_records(str(shared_data / "wise" / f"{version}-*.json"), version)

    assert [record.id for record in found] == list(range(1, 1001))
    assert Counter(record.field for record in found) == {
        name: len(ids) for name, ids in WISE_VERSIONS[version].groups.items()
    }
    groups = by_subcategory(found)
    assert sum(map(len, groups.values())) == 1000
    assert {len(groups["culture: Animal"]), len(groups["culture: Craft"])} == {72, 14}


def test_versions_are_not_mixed_up(shared_data):
    with pytest.raises(DataError, match="take --version verified"):
        read_records(str(shared_data / "wise" / "verified-*.json"), "legacy")
    with pytest.raises(DataError, match="Name the files of one version"):
        read_records(str(shared_data / "wise"), "legacy")
