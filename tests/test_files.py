import os
import stat

import pytest

from asft_lightning.files import cache_folder, write_atomically


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
