"""tqdm's bars in a log file: nothing of those that are soon done, and as ever where somebody looks."""

import subprocess
import sys

import pytest

from asft_lightning.runtime.few_bars import few_bars

PROGRAM = "{}from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='Scoring'): pass"
QUIET = "from asft_lightning.runtime.few_bars import few_bars\nfew_bars()\n"


@pytest.mark.parametrize(("before", "says"), [("", True), (QUIET, False)])
def test_a_short_bar_is_not_in_a_log(before, says):
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(before)], capture_output=True, text=True, check=True)
    assert ("Scoring" in ran.stderr) == says


@pytest.mark.parametrize(("is_terminal", "given", "left"), [(True, None, None), (False, None, "30"), (False, "1", "1")])
def test_a_terminal_has_them_all_and_what_is_given_stays(monkeypatch, is_terminal, given, left):
    environment = {} if given is None else {"TQDM_DELAY": given}
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    few_bars()
    assert environment.get("TQDM_DELAY") == left
