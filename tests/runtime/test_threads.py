"""CPU threads: how they wait, in a process of its own, and how many there are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asft_lightning.cli import main
from asft_lightning.runtime.threads import SAID_OTHERWISE, take_threads, threads_as_found


def says_env(**environment):
    """The line on threads of ``asft-lightning env``."""
    own = {name: value for name, value in os.environ.items() if name not in SAID_OTHERWISE}
    process = subprocess.run(
        [sys.executable, "-m", "asft_lightning", "env"], capture_output=True, text=True, check=True,
        env=own | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_DISPLAY_ENV": "TRUE"} | environment,
    )  # fmt: skip
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("CPU")]
    return line, process.stderr


@pytest.mark.slow
def test_they_sleep_while_they_wait():
    """As OpenMP itself says, which reads it when torch is loaded."""
    line, openmp = says_env()
    assert "OMP_WAIT_POLICY=passive" in line
    assert not openmp or "OMP_WAIT_POLICY = 'PASSIVE'" in openmp


@pytest.mark.slow
@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_says_of_it_stays(said):
    ((name, value),) = said.items()
    assert f"({name}={value})" in says_env(**said)[0]


def test_nothing_is_set_where_torch_is_loaded_already(monkeypatch, capsys):
    """In a host's process; it would have no effect either."""
    for name in SAID_OTHERWISE:
        monkeypatch.delenv(name, raising=False)
    main(["env"])
    assert "(OpenMP's default)" in capsys.readouterr().out
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize("said", ["3", None])
def test_a_host_has_its_threads_again(monkeypatch, said):
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads_as_found():
        take_threads(before + 1)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before + 1, str(before + 1))
        raise KeyError
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == (before, said)
