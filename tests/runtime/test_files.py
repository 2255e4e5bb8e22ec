import os
import stat

import pytest

from asft_lightning import StorageError
from asft_lightning.runtime.files import cache_folder, whole_folder, write_atomically


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ASFT_LIGHTNING_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/asft-lightning"),
        ({"HOME": "/c"}, "/c/.cache/asft-lightning"),
    ],
)
def test_cache_folder(monkeypatch, variables, expected):
    for name in ("ASFT_LIGHTNING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected


def test_a_file_is_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", 3)
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def write_folder(path, text, error=None, **settings):
    with whole_folder(path, **settings) as new:
        (new / text).write_text(text)
        if error is not None:
            raise error


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "made" / "folder"
    with pytest.raises(StorageError, match=r"made/folder must be written, and cannot be \(no room\)"):
        write_folder(folder, "first", OSError("no room"))
    assert not folder.exists()
    write_folder(folder, "first")
    with pytest.raises(KeyError):
        write_folder(folder, "second", KeyError(), replace=True)
    with pytest.raises(StorageError, match="made/folder must be written"):  # it came while this was written
        write_folder(folder, "second")
    assert [path.name for path in folder.iterdir()] == ["first"]
    write_folder(folder, "second", replace=True)
    assert [path.name for path in folder.iterdir()] == ["second"] and len(list(folder.parent.iterdir())) == 1
