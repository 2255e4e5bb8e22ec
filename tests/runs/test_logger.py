"""metrics.csv holds whole rows, all of them, whenever a run is ended."""

import csv
import os
import signal
from contextlib import nullcontext
from functools import partial

import pytest
from kit.kills import ends

from asft_lightning import StorageError
from asft_lightning.runs.logger import RunLogger

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="what is killed is a fork")


def log(folder, first, **values):
    """Go on with the file, a row at a time."""
    logger = RunLogger(folder, resumed=True)
    for step in (first, first + 1):
        logger.log_metrics(values, step=step)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_killed_run_that_goes_on_with_new_columns_loses_nothing(tmp_path):
    """Neither while it opens the file, nor while the file gets its new heading, nor while rows are added."""
    log(tmp_path, 0, b=1.0)
    before, steps = rows(tmp_path), 0
    while not ends(partial(log, tmp_path, 2, a=2.0), steps):
        assert rows(tmp_path)[:2] == before
        assert all(row.keys() in ({"b", "step"}, {"a", "step"}) for row in rows(tmp_path))
        steps += 1
    assert steps > 5
    assert before == [{"b": 1.0, "step": 0.0}, {"b": 1.0, "step": 1.0}]
    assert rows(tmp_path)[-2:] == [{"a": 2.0, "step": 2.0}, {"a": 2.0, "step": 3.0}]
    assert len(os.listdir(tmp_path)) - 1 == sum(name.endswith(".asft-unfinished") for name in os.listdir(tmp_path))


def test_what_is_taken_again_stands_there_once(tmp_path):
    """A step's new row takes the place of the old one; other figures of that step, and other steps, stay."""
    log(tmp_path, 0, b=1.0)
    log(tmp_path, 1, a=3.0, epoch=0)
    log(tmp_path, 1, b=2.0, epoch=0)
    expected = [{"b": 1.0, "step": 0.0}, *({"a": 3.0, "epoch": 0.0, "step": step} for step in (1.0, 2.0))]
    assert rows(tmp_path) == [*expected, *({"b": 2.0, "epoch": 0.0, "step": step} for step in (1.0, 2.0))]


def test_a_killed_run_has_logged_what_it_was_told(tmp_path):
    def told():
        RunLogger(tmp_path).log_metrics({"b": 1.0}, step=3)
        os.kill(os.getpid(), signal.SIGKILL)

    assert not ends(told)
    assert rows(tmp_path) == [{"b": 1.0, "step": 3.0}]


@pytest.mark.parametrize("half", ["3.0,", "3.0,2\r", ""])
def test_no_row_is_glued_to_half_of_one(tmp_path, half):
    log(tmp_path, 0, b=1.0)
    with (tmp_path / "metrics.csv").open("a", newline="") as file:
        file.write(half)
    log(tmp_path, 2, b=1.0)
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2, 3]


def test_no_row_is_glued_to_what_found_no_room(tmp_path):
    """A limit on a file's size is a disk without room: half of what is written arrives."""
    import resource

    def without_room():
        logger = RunLogger(tmp_path, resumed=True)
        size = (tmp_path / "metrics.csv").stat().st_size
        for room, values in ((3, {"b": 9.0}), (3, {"b": 9.0, "a": 1.0}), (1000, {"b": 9.0})):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
            with pytest.raises(StorageError) if room == 3 else nullcontext():
                logger.log_metrics(values, step=2)

    log(tmp_path, 0, b=1.0)
    assert ends(without_room)
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2, 2, 2]


def test_a_new_run_begins_a_new_file(tmp_path):
    log(tmp_path, 0, b=1.0)
    logger = RunLogger(tmp_path)
    logger.log_metrics({"c": 1.0}, step=7)
    logger.finalize("success")
    assert rows(tmp_path) == [{"c": 1.0, "step": 7.0}]
