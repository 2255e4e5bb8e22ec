"""Claims on a run: one owner at a time, on one machine and on several; the clock is moved by hand."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from asft_lightning.comparison.claims import FAILED, LET_GO, PATIENCE, Claims
from asft_lightning.runtime.files import alone


class Clock:
    """Seconds, as a test says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def later(self, seconds):
        self.now += seconds


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "sft-seed0-abc"


@pytest.fixture
def process(run):
    """A process of its own on a machine, with a clock that agrees with no other."""

    def started(machine):
        clock = Clock()
        return Claims(run.parent, machine, clock), clock

    return started


def died(claim):
    """As a kill leaves it: unlocked, without a last line."""
    claim.file.close()


def test_a_run_has_one_owner(run, process):
    (ours, _), (near, _), (far, _) = process("here"), process("here"), process("there")
    claim = ours.take(run)
    assert claim is not None and claim.keep()
    assert near.take(run) is None and far.take(run) is None and ours.take(run) is None


def test_of_many_at_once_one_has_it(run, process):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda claims: claims.take(run), [process(f"machine {i}")[0] for i in range(32)]))
    assert sum(claim is not None for claim in found) == 1


def test_a_listing_that_comes_late_lets_no_second_have_it(run, process, monkeypatch):
    """As network file systems show folders: what counts is that a file can be made once."""
    claim = process("here")[0].take(run)
    owner = claim.path.read_text()
    monkeypatch.setattr("asft_lightning.comparison.claims._latest", lambda folder: None)
    assert process("there")[0].take(run) is None
    assert claim.path.read_text() == owner


def test_a_dead_owner_on_this_machine_is_known_at_once(run, process):
    (ours, _), (near, _), (far, _) = process("here"), process("here"), process("there")
    died(ours.take(run))
    assert far.take(run) is None
    claim = near.take(run)
    assert claim is not None and claim.path.name == ".claim-1"


def test_a_dead_owner_elsewhere_is_known_by_its_silence(run, process):
    """By the watcher's clock alone, from when it looked first."""
    (ours, _), (far, clock) = process("here"), process("there")
    clock.later(1e6)
    died(ours.take(run))
    assert far.take(run) is None
    clock.later(PATIENCE)
    assert far.take(run) is None
    clock.later(1)
    assert far.take(run) is not None


def test_signs_of_life_keep_a_run(run, process):
    (ours, clock), (far, watch) = process("here"), process("there")
    claim = ours.take(run)
    os.utime(claim.path, (0, 0))  # that clocks are years apart is nothing: it is change that counts
    assert far.take(run) is None
    for time in (clock, watch):
        time.later(PATIENCE + 1)
    assert claim.keep()
    assert far.take(run) is None
    watch.later(PATIENCE + 1)
    assert far.take(run) is not None


def test_of_two_that_find_it_dead_one_has_it(run, process):
    """The second has seen the first's silence too, and not yet that it was taken over."""
    owner, watchers = process("here"), [process("there"), process("elsewhere")]
    claim = owner[0].take(run)
    for claims, clock in watchers:
        assert claims.take(run) is None
        clock.later(PATIENCE + 1)
    taken = [claims.take(run) for claims, _ in watchers]
    assert [found is not None for found in taken] == [True, False]
    assert not claim.keep()  # it stood still, and wakes
    assert taken[0].keep()


def test_what_is_let_go_is_free_at_once(run, process):
    ours, far = process("here")[0], process("there")[0]
    ours.take(run).end(LET_GO)
    assert far.take(run) is not None


def test_a_run_that_outlives_its_owner_is_left_alone(run, process):
    ours, near = process("here")[0], process("here")[0]
    claim = ours.take(run)
    with alone(run):
        died(claim)
        assert near.take(run) is None
    assert near.take(run) is not None


def test_failures_are_shared_until_the_next_start(run, process):
    ours, far = process("here")[0], process("there")[0]
    ours.take(run).end(FAILED + "no rows\nat all")
    assert far.failure(run) == ours.failure(run) == "no rows at all"
    later = process("there")[0]
    assert later.failure(run) is None
    again = later.take(run)
    assert far.failure(run) is None
    again.end(FAILED + "still none")
    assert [claims.failure(run) for claims in (ours, far, later)] == ["still none"] * 3


def test_file_systems_without_locks(run, process, monkeypatch):
    """Nothing is concluded from a lock that was never there."""
    monkeypatch.setattr("asft_lightning.comparison.claims.lock", lambda file, path: False)
    (ours, _), (near, clock) = process("here"), process("here")
    ours.take(run)
    assert near.take(run) is None
    clock.later(PATIENCE + 1)
    assert near.take(run) is not None


def test_half_written_and_foreign_files(run, process):
    run.mkdir(parents=True)
    (run / ".claim-x").touch()
    (run / ".claim-0").touch()  # its owner is about to write where it is
    claims, _ = process("here")
    assert claims.take(run) is None
    (run / ".claim-0").write_text("1 on here\nlet")  # half of a last line is none; and nobody has locked it
    assert claims.take(run).path.name == ".claim-1"
