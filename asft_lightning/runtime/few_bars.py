"""Progress bars where there is no terminal to move them on: a line now and then in place of ten a second."""

import os
import sys

_SECONDS = "30"


def few_bars() -> None:
    """Have tqdm's bars, those of others too, wait before they speak, where standard error is no terminal.

    What is set in the environment already stays. tqdm reads it when it is loaded; after that nothing is done.
    """
    if "tqdm" not in sys.modules and not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DELAY", _SECONDS)
        os.environ.setdefault("TQDM_MININTERVAL", _SECONDS)
