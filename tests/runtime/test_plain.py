"""What a terminal would obey reaches none: not in lines, tables, errors, warnings or log lines."""

import logging
import subprocess
import sys
import warnings

import pytest

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.exits import ending_in_one_line
from asft_lightning.runtime.plain import plain, plain_channels
from asft_lightning.runtime.tables import Sheet, as_text, show
from asft_lightning.runtime.terminal import as_markdown, markdown, markdown_code, say

OBEYED = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\x08", "\x7f", "\u202e", "\u2066", "\u2028", "\ud83d", "\x00"]


@pytest.mark.parametrize("character", OBEYED, ids=ascii)
def test_nothing_is_obeyed(character, capsys):
    text = f"a{character}b"
    say(text)
    show(Sheet([text], [[text]], title=text))
    with pytest.raises(SystemExit), ending_in_one_line():
        raise ConfigurationError(f"{text} must be another. Name it.")
    printed = capsys.readouterr()
    shown = f"{printed.out}{printed.err}{as_text([text], [[text]])}{as_markdown([text], [[text]])}"
    assert shown.count("a" + plain(character) + "b") + shown.count(markdown(text)) >= 7
    assert character not in shown


def test_words_of_every_language_stay():
    text = "λ = 1 · naïve · 安全 · שלום · 👩‍🔬 · tab\tand\nline"
    assert plain(text) == text


def test_warnings_and_log_lines():
    """In a process of its own: pytest has channels of its own."""
    code = (
        "import logging, warnings\n"
        "from asft_lightning.runtime.exits import ending_in_one_line\n"
        "with ending_in_one_line():\n"
        "    warnings.warn('\\x1b[31mwarned')\n"
        "    logging.getLogger('x').warning('%s logged', '\\x1b[31m')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert r"\x1b[31mwarned" in said
    assert r"\x1b[31m logged" in said
    assert "\x1b" not in said


def test_channels_are_put_back():
    before = warnings.showwarning, logging.getLogRecordFactory()
    with plain_channels(), pytest.warns(UserWarning, match="^harmless$"):
        warnings.warn("harmless", stacklevel=1)
    assert (warnings.showwarning, logging.getLogRecordFactory()) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![x](http://y)", r"!\[x\](http://y)"),
        ("`a` *b* ~c~ $d$ \\|", r"\`a\` \*b\* \~c\~ \$d\$ \\\|"),
        ("_a_ snake_case", r"\_a\_ snake_case"),
        ("&lt;", "&amp;lt;"),
        ("two\nlines", "two<br>lines"),
    ],
)
def test_nothing_is_markdown(text, expected):
    assert markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("m", "`m`"), ("a`b", "`` a`b ``"), ("a\n\n<b>", "`a <b>`"), ("``", "``` `` ```")]
)
def test_code_stays_code(text, expected):
    assert markdown_code(text) == expected
