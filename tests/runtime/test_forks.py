"""The process that forks runs: where it is gone, that is what is said."""

import shutil
import sys

import pytest
from kit.commands import FORKED
from kit.forks import Forks

pytestmark = FORKED


def test_end_of_the_process_that_forks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(AssertionError, match="the process that forks has ended with status 1: nothing was said"):
        Forks(tmp_path).statuses()
