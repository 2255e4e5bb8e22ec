import os
import signal
import stat
from contextlib import suppress
from functools import partial

import pytest
import torch
from kit.kills import another, die, ends
from safetensors.torch import save_file

from asft_lightning import ConfigurationError, StorageError
from asft_lightning.runtime.files import (
    alone,
    append,
    cache_folder,
    clear_unfinished,
    drop_half_line,
    whole_folder,
    write_atomically,
    writing,
)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="what is killed is a fork")


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


def test_what_is_written_is_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        append(tmp_path / "lines", "line\n")
        with whole_folder(tmp_path / "folder") as new:
            (new / "inner").mkdir(mode=0o700)
            save_file({"a": torch.ones(1)}, new / "inner" / "weights")  # itself for its owner alone
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"file": 0o640, "lines": 0o640, "folder": 0o750, "inner": 0o750, "weights": 0o640}


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


def test_every_library_says_the_same_where_nothing_can_be_written(tmp_path, tokenizer):
    """Rust's do not raise an OSError."""
    absent = tmp_path / "absent" / "file"
    for write in (tokenizer.backend_tokenizer.save, partial(save_file, {"a": torch.ones(1)})):
        with pytest.raises(StorageError, match=r"what must be written, and cannot be .*Allow it"), writing("what"):
            write(str(absent))
    with pytest.raises(Exception, match="no error of a disk") as told, writing("what"):
        raise Exception("no error of a disk")
    assert type(told.value) is Exception


@forks
@pytest.mark.parametrize("old", [None, "old"])
def test_killed_at_every_step_of_writing(tmp_path, old):
    """A file is never half; a folder is whole again when the next one comes; and nothing is left beside them."""
    file, folder, steps = tmp_path / "file", tmp_path / "folder", 0

    def write(text):
        write_atomically(file, text)
        write_folder(folder, text, replace=True)

    if old:
        write(old)
    while not ends(partial(write, "new"), steps):
        assert not file.exists() or file.read_text() in (old, "new")
        clear_unfinished(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"file", "folder"}
        assert not old or len(list(tmp_path.iterdir())) == 2
        assert not folder.exists() or [path.name for path in folder.iterdir()] in (["old"], ["new"])
        steps += 1
    assert steps > 10
    assert file.read_text() == "new" and [path.name for path in folder.iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 2


@forks
def test_the_next_writer_of_a_folder_clears_what_a_killed_one_left(tmp_path):
    def die_within():
        with whole_folder(tmp_path / "folder"):
            die()

    assert not ends(die_within) and os.listdir(tmp_path) == [".folder.asft-unfinished"]
    write_folder(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


@forks
def test_what_another_process_is_writing_is_left_alone(tmp_path):
    (tmp_path / ".file.rsyncs").touch()
    with another(whole_folder(tmp_path / "folder")):
        clear_unfinished(tmp_path)
        with pytest.raises(ConfigurationError, match="folder is one process's at a time, and another is at work there"):
            write_folder(tmp_path / "folder", "text")
    assert {path.name for path in tmp_path.iterdir()} == {".file.rsyncs", "folder"}


def test_a_link_is_not_followed(tmp_path):
    """A run's folder may come from elsewhere."""
    for name in ("new", "old"):
        (tmp_path / "theirs" / name).mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".x.asft-unfinished").symlink_to(tmp_path / "theirs")
    clear_unfinished(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "theirs")) == ["new", "old"]


def test_a_lock_that_leads_nowhere_is_no_endless_wait(tmp_path):
    (tmp_path / ".folder.asft-unfinished").mkdir()
    (tmp_path / ".folder.asft-unfinished" / ".lock").symlink_to(tmp_path / "absent" / "lock")
    with pytest.raises(StorageError, match="folder must be written, and cannot be"):
        write_folder(tmp_path / "folder", "text")


def clear_again_and_again(folder):
    while True:
        clear_unfinished(folder)


@forks
def test_one_who_clears_takes_nothing_from_one_who_writes(tmp_path):
    """As two processes that share a cache do, at once and at any moment."""
    pid = os.fork()
    if pid == 0:
        clear_again_and_again(tmp_path)
    try:
        for number in map(str, range(300)):
            write_atomically(tmp_path / "file", number)
            write_folder(tmp_path / "folder", number, replace=True)
            assert (tmp_path / "file").read_text() == number and os.listdir(tmp_path / "folder") == [number]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@forks
def test_no_dead_process_has_a_folder(tmp_path):
    """Not even by a worker that it forked and that outlives it."""
    with another(alone(tmp_path)), pytest.raises(ConfigurationError, match=f"{tmp_path} is one process's at a time"):
        ends_at_once(tmp_path)
    (ready, begun), (wait, end) = os.pipe(), os.pipe()

    def die_with_a_worker_left():
        with alone(tmp_path):
            if os.fork() == 0:
                os.close(end)
                os.write(begun, b"1")
                os.read(wait, 1)
                os._exit(0)
            os.read(ready, 1)
            die()

    assert not ends(die_with_a_worker_left)
    ends_at_once(tmp_path)
    os.close(end)


def ends_at_once(folder):
    with alone(folder):
        pass


@forks
def test_lines_are_added_whole_or_not_at_all(tmp_path):
    """A limit on a file's size is a disk without room: half of what is written arrives."""
    import resource

    file = tmp_path / "lines"
    append(file, "first\n")

    def without_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        with suppress(StorageError):
            append(file, "another line\n")
            os._exit(1)

    assert ends(without_room)
    append(file, "last\n")
    assert file.read_text() == "first\nlast\n"


@pytest.mark.parametrize(("there", "left"), [("a\nb", "a\n"), ("a\nb\n", "a\nb\n"), ("half", ""), ("", "")])
def test_half_of_a_last_line_is_cut_off(tmp_path, there, left):
    file = tmp_path / "lines.jsonl"
    drop_half_line(file)  # not there, and not made
    assert not file.exists()
    file.write_text(there)
    drop_half_line(file)
    assert file.read_text() == left
