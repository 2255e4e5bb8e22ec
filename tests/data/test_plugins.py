"""What plug-ins add to data: readers of paths and entries of the catalogue, by code or by an entry point."""

import pytest

from asft_lightning import ConfigurationError, DataError, Row, Source
from asft_lightning.data import Columns, Entry, catalogue, readers, register_entry, register_reader
from asft_lightning.runtime.plugins import load_plugins

COUNTING = """
from asft_lightning.data import Columns, Entry, register_entry, register_reader

def count(source):
    for i in range(int(source.path.partition(":")[2] if source.path.startswith("plugged:") else 2)):
        yield {"said": f"number {i}", "reply": "yes"}

register_reader("plugged", count)
register_entry("plugged-two", Entry("plugged:2", (Columns("{said}", "{reply}"),), "MIT", "two numbers"))
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """What a test registers is forgotten, and what it installs as well."""
    monkeypatch.setattr(readers, "_BY_PREFIX", {})
    monkeypatch.setattr(catalogue, "_REGISTERED", {})
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


def install(folder, monkeypatch, module, code):
    """As pip would: a module, and beside it what says that it is a plug-in."""
    (folder / f"{module}.py").write_text(code)
    about = folder / f"{module}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[asft_lightning.plugins]\n{module} = {module}\n")
    monkeypatch.syspath_prepend(folder)


def test_a_reader_by_code_takes_all_settings_of_a_source():
    def count(source):
        assert source.split == "test"
        return ({"n": str(i), "even": i % 2 == 0} for i in range(int(source.path.removeprefix("count:"))))

    register_reader("count", count)
    register_reader("count", count)  # imported twice
    source = Source("count:5", prompt="{n}", answer="ok", where={"even": True}, rows="1:", split="test")
    assert source.load() == [Row("2", "ok"), Row("4", "ok")]


def test_what_a_reader_raises_is_told():
    def broken(source):
        raise OSError("no such table")

    register_reader("sql", broken)
    with pytest.raises(DataError, match=r"sql:rows cannot be read \(no such table\)"):
        Source("sql:rows").load()


def test_an_entry_by_code(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"q": "a", "a": "b"}\n')
    register_entry("own", Entry(str(tmp_path / "own.jsonl"), (Columns("{q}", "{a}"),), "MIT", "mine"))
    assert Source("catalogue:own").load() == [Row("a", "b")]


def test_both_by_an_entry_point(tmp_path, monkeypatch):
    """Nothing is imported before it is asked for."""
    install(tmp_path, monkeypatch, "plugged_numbers", COUNTING)
    assert len(Source("plugged:3", prompt="{said}", answer="").load()) == 3
    assert Source("catalogue:plugged-two").load() == [Row("number 0", "yes"), Row("number 1", "yes")]
    with pytest.raises(DataError, match=r"the catalogue has sst2, .*, plugged-two, got 'plugged'"):
        Source("catalogue:plugged").load()


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "plugged_broken", "import no_such_module")
    with pytest.raises(
        ConfigurationError, match="the plug-in plugged_broken must be importable as plugged_broken, and is not"
    ):
        Source("catalogue:own").load()


@pytest.mark.parametrize("prefix", ["hf", "catalogue", "C", "a b", ""])
def test_prefixes_that_cannot_be(prefix):
    with pytest.raises(DataError, match=r"a reader's prefix must be a short word .*Take another"):
        register_reader(prefix, lambda source: [])


def test_names_that_are_taken():
    register_reader("mine", lambda source: [])
    with pytest.raises(DataError, match=r"a reader's prefix must be .*got 'mine'"):
        register_reader("mine", lambda source: [])
    with pytest.raises(DataError, match="a name in the catalogue must be one that no other entry has, got 'sst2'"):
        register_entry("sst2", Entry("x", (Columns("{a}", ""),), "MIT", "x"))
