"""Tables on terminals of any width: no figure is broken, no name but at a joint, and nothing is lost."""

import io
import re

import pytest
from rich.console import Console

from asft_lightning.runs.score import HEADINGS, Score, score_row
from asft_lightning.runtime.tables import Sheet

JOINTS = re.compile(r"(?<=[\s/_:,-])")
SCORES = {
    "safety/harmful_score": {"before": 0.0, "after": 2.5, "interval": {"before": [0, 1.88], "after": [1.1, 5.7]}},
    "over_refusal/refusal_rate": {"before": 1.5, "after": 0.0, "interval": {"before": [0.5, 4.3], "after": [0.0, 1.9]}},
    "utility/accuracy": {"before": 4.0, "after": 100.0, "interval": {"before": [2.0, 7.7], "after": [98.1, 100.0]}},
}
SPREADS = ["12.3 ± 4.5", "97.5 ± 1.2", "1.0 ± 0.3", "0.5 ± 0.1", "102", "1801"]
TABLES = {
    "scores": Sheet(HEADINGS, [score_row(name, Score.from_plain(SCORES[name])) for name in SCORES], "Before and after"),
    "comparison": Sheet(
        ["method", "n", "HS (%)", "FA (%)", "over-refusal (%)", "noise (%)", "time (s)", "memory (MiB)"],
        [["protect (default)", "3", *SPREADS], ["constrained-sft", "3", *SPREADS]],
        "p 0.1: mean ± standard deviation over n seeds",
    ),
    "two texts": Sheet(["source", "kind", "rows"], [["catalogue:harmless-prompts", "benign", "9 of 400"]], "Rows", texts=2),
}


def lines_of(sheet, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(sheet.fitted(width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("sheet", TABLES.values(), ids=TABLES)
def test_figures_are_whole_and_names_end_at_joints(sheet, width):
    lines = lines_of(sheet, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for name, *cells in sheet.rows:
        assert all(part.strip() in text for part in JOINTS.split(name))
        assert all(figure in text for figure in cells[sheet.texts - 1 :])


@pytest.mark.parametrize(("name", "width"), [("scores", 80), ("comparison", 80), ("scores", 60), ("two texts", 60)])
def test_a_row_is_a_line_where_there_is_room(name, width):
    sheet = TABLES[name]
    for row in sheet.rows:
        assert any(all(figure in line for figure in row[sheet.texts :]) for line in lines_of(sheet, width))


def test_a_row_has_lines_of_its_own_where_there_is_none():
    lines = lines_of(Sheet(["metric", "before", "after"], [["safety/x", "1.0  0.0–1.9", "2.0  0.0–1.9"]], "All"), 24)
    assert lines == ["All", "", "safety/x", "  before  1.0  0.0–1.9", "  after   2.0  0.0–1.9", ""]


def test_a_sentence_is_broken_between_words():
    lines = lines_of(Sheet(["name", "what it says"], [["a-b", "as docs/results.md has it"]], texts=2), 26)
    assert [line.split("  ")[-1].strip() for line in lines[-4:]] == ["as", "docs/results.md", "has it", ""]
