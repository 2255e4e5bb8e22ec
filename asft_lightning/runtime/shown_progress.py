"""What shows a run's progress on the command line: a bar on a terminal and in a notebook, else a line now and then."""

import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console

from asft_lightning.runtime.progress_bar import OneLineBar
from asft_lightning.runtime.progress_lines import ProgressLines


def progress_of(settings: Mapping[str, Any]) -> list[ProgressBar]:
    """Ours, unless the user names another bar, or wants none.

    Args:
        settings: The trainer's, with its callbacks made.
    """
    given = settings["callbacks"]
    others = given if isinstance(given, list) else [given]
    is_wanted = settings["enable_progress_bar"] is not False and not settings["barebones"]
    if not is_wanted or any(isinstance(other, ProgressBar) for other in others):
        return []
    return [OneLineBar() if _can_move() else ProgressLines()]


def _can_move() -> bool:
    """Whether a bar can be drawn anew where it stands; colours that are forced upon a log file do not make it one."""
    return sys.stdout.isatty() or Console().is_jupyter
