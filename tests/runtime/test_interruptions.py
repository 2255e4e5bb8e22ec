"""Runs that are ended anyhow and anywhere, on one and on two ranks; benchmarks/interruptions.py tries more of them."""

import pytest
from kit.commands import FORKED
from kit.interruptions import Interruptions, cells, is_well

CELLS = 12

pytestmark = FORKED


@pytest.fixture(scope="module")
def interruptions(tmp_path_factory):
    found = Interruptions(tmp_path_factory.mktemp("interruptions"))
    yield found
    found.close()


@pytest.mark.parametrize("cell", cells(CELLS), ids=lambda cell: f"{cell.how}-{cell.moment}-{cell.ranks}")
def test_goes_on_as_if_it_had_not_been_ended(interruptions, cell):
    outcome = interruptions.outcome(cell)
    assert is_well(outcome), (outcome, interruptions.forks.log.read_text()[-3000:])
    assert any(outcome["statuses"])
