"""A chat template that comes from elsewhere is a program: it is tried where it can take little time and memory."""

import os
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from asft_lightning.errors import ConfigurationError

_MOST_SECONDS = 2
"""Of the processor. A sound template takes a few hundredths."""
_MOST_BYTES = 2**30
_LONGEST_WAIT = 300.0
"""Seconds, for a machine that is busy."""

_TURNS = [{"role": ("user", "assistant")[i % 2], "content": f"What is said. {i}"} for i in range(40)]
_CONVERSATIONS: list[list[dict[str, Any]]] = [
    _TURNS[:1],
    _TURNS[:2],
    _TURNS,
    [{"role": "system", "content": "Be kind."}, *_TURNS[:3]],
    [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in _TURNS[:3]],
]

_SOUND: set[tuple[str, str]] = set()
"""Templates that were tried, with the special tokens that they were told."""


def require_bounded(tokenizer: PreTrainedTokenizerBase, location: str) -> None:
    """Refuse a chat template that takes too long, or too much memory, for a few short conversations.

    It writes them in a process of its own, with limits. Where processes cannot be forked, as on Windows, nothing is tried.

    Args:
        tokenizer: Whose template it is; one without is fine.
        location: Where it comes from.

    Raises:
        ConfigurationError: If it does.
    """
    key = str(tokenizer.chat_template), str(tokenizer.special_tokens_map)
    if not tokenizer.chat_template or key in _SOUND or "fork" not in get_all_start_methods():
        return
    trial = get_context("fork").Process(target=_write_all, args=(tokenizer,), daemon=True)
    trial.start()
    trial.join(_LONGEST_WAIT)
    if trial.exitcode != 0:
        trial.kill()
        raise ConfigurationError(
            f"a chat template must write a short conversation within {_MOST_SECONDS} s and 1 GiB, and that of {location} "
            "does not: it loops, or builds a huge text. Take another version of it, or remove it from the tokenizer's "
            "files and set template.style."
        )
    _SOUND.add(key)


def _write_all(tokenizer: PreTrainedTokenizerBase) -> None:
    """All conversations; what is said meanwhile is not shown. Only running out of memory counts as an error here."""
    import resource  # not on Windows

    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    if (sizes := Path("/proc/self/statm")).exists():
        most = int(sizes.read_text().split()[0]) * resource.getpagesize() + _MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for turns in _CONVERSATIONS:
        for is_open in (False, True):
            try:
                tokenizer.apply_chat_template(turns, add_generation_prompt=is_open, tokenize=False)
            except MemoryError:
                raise
            except Exception:  # a template may refuse turns: said where it refuses those of a user
                continue
