"""Plain text: what people are shown of rows, files, names and errors moves no cursor and hides nothing."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""All but tabs and ends of lines: terminals' commands, marks that turn text around, and halves of a character."""


def plain(text: str) -> str:
    r"""``text`` with each character that a terminal would obey spelt out.

    >>> print(plain("\x1b[2J gone"))
    \x1b[2J gone
    """
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


@contextmanager
def plain_channels() -> Iterator[None]:
    """While inside, warnings and log lines are plain text too, whoever writes them."""
    shown, record = warnings.showwarning, logging.getLogRecordFactory()

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        text = plain(str(message))
        shown(message if text == str(message) else UserWarning(text), *where, **more)

    def make(*args: Any, **more: Any) -> logging.LogRecord:
        made = record(*args, **more)
        with suppress(TypeError, ValueError):  # arguments that do not fit: logging says so itself
            made.msg, made.args = plain(made.getMessage()), ()
        return made

    warnings.showwarning = show
    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.setLogRecordFactory(record)
