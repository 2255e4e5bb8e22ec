"""What people read is what was given: nothing in a text is markup, an emoji or an escape."""

import pytest

from asft_lightning.runtime.tables import Sheet, as_text, show
from asft_lightning.runtime.terminal import as_markdown, say

NASTY = ["[bold]x[/bold]", ":fire:", "C:\\runs\\", "[m] x", "a|b"]


@pytest.mark.parametrize("text", NASTY)
def test_texts_stand_as_they_are(text, capsys):
    say(text)
    show(Sheet([text, "n"], [[text, "1"]], title=text))
    out = capsys.readouterr().out
    assert out.count(text) == 4
    assert as_text([text, "n"], [[text, "1"]]).splitlines() == [f"{text}  n", f"{text}  1"]


def test_figures_stand_at_the_right_and_wide_texts_are_not_cut():
    text = as_text(["module", "kept"], [["model.layers." + "x" * 200, "7"], ["lm_head", "12"]])
    assert [line[-2:] for line in text.splitlines()] == ["pt", " 7", "12"]
    assert "x" * 200 in text


def test_markdown():
    assert as_markdown(["a"], [["x|y"], ["two\nlines"]]).splitlines() == [
        "| a |",
        "| --- |",
        "| x\\|y |",
        "| two<br>lines |",
    ]
