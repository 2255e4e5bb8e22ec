"""Verdicts: what judges said of each answer that a run gave, from its ``generations/``."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment

PLAIN = "safety"
"""The prompts that are asked plainly, as the scorer is called where nobody names it."""
_UNSAFE = "unsafe"


class Judged(NamedTuple):
    """One answer."""

    prompt: str
    unsafe: dict[str, bool]
    """By judge, "" where there is one; only of those that could judge it."""
    answer: str = ""


def read_verdicts(folder: Path, moment: Moment = Moment.AFTER, asked: str = PLAIN) -> list[Judged]:
    """Of one run, in the prompts' order; empty where it left no such answers.

    Args:
        folder: The run's.
        moment: When the answers were given.
        asked: The name of the scorer that asked.

    Raises:
        ConfigurationError: If the file is damaged.
    """
    file = RunFolder(folder).generations(asked, moment)
    try:
        if not file.is_file():
            return []
        return [_judged(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ConfigurationError(
            f"{file} cannot be read as a run's answers ({type(error).__name__}): it is damaged. Remove the run's folder; "
            "the same command makes it again."
        ) from error


def _judged(answer: dict[str, Any]) -> Judged:
    told = {name.rpartition("/"): value for name, value in answer.items() if isinstance(value, bool)}
    unsafe = {judge: value for (judge, _, fact), value in told.items() if fact == _UNSAFE}
    return Judged(str(answer["prompt"]), unsafe, str(answer.get("answer", "")))
