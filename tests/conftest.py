"""Fixtures that every part of the suite shares."""

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported: no test may depend on a network
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is: models this small run fastest on one thread

import numpy as np
import pytest
import torch
from hypothesis import settings
from kit import tiny

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # Started in the background: what the tests start would ignore Ctrl-C as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no fault of the code, and what is drawn is the same in each run.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws, and its fixtures, depends on no test before it, nor on the worker that it runs in."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory):
    """(aligned, base): folders of two checkpoints of one architecture and tokenizer, with different random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny.save_tiny(folder / "aligned", seed=1), tiny.save_tiny(folder / "base", seed=2)


@pytest.fixture(scope="session")
def pretrained(tiny_pair):
    """The tiny pair as a run names it."""
    return tiny.as_pretrained(tiny_pair)


@pytest.fixture(scope="session")
def tokenizer():
    """The tiny pair's tokenizer."""
    return tiny.tiny_tokenizer()


@pytest.fixture
def seed_stays(monkeypatch):
    """For tests of the command line, which seeds the process: the variable is put back after each."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def witness(tmp_path):
    """The file that an exploit makes."""
    return tmp_path / "executed"


@pytest.fixture
def evil(tmp_path, witness, monkeypatch):
    """The class path of a module that is seen to be imported."""
    (tmp_path / "made_to_run.py").write_text(f"import pathlib\npathlib.Path({str(witness)!r}).touch()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_to_run.Evil"
    sys.modules.pop("made_to_run", None)


@pytest.fixture
def shared_data():
    """Real text; the test skips where it is absent."""
    if not tiny.DATA.is_dir():
        pytest.skip(f"no {tiny.DATA}")
    return tiny.DATA


@pytest.fixture(autouse=True, scope="session")
def anchor_cache(tmp_path_factory):
    """The folder of finished anchors: the user's own is left alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("anchors.build", "anchors.answers", "audit.kept_facts"):
            patch.setattr(f"asft_lightning.{module}.cache_folder", lambda: folder)
        yield folder / "anchors"


@pytest.fixture(autouse=True, scope="session")
def _imports_are_no_garbage():
    """What the imports brought is not looked through again and again: that would be a good part of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    """Lightning's own advice is not what the tests are about."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
