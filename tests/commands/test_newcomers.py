"""Mistakes that a newcomer makes: each ends with status 2 and in at most five lines, the last of which says what to do."""

import re

import pytest
from kit import tiny

from asft_lightning.cli import main

MISTAKES = {
    "a misspelt command": ("protekt MODEL ROWS", "Did you mean protect"),
    "nothing but the command": ("protect", "required: model, data.*--help"),
    "the rows left out": ("protect MODEL", "required: data.*--help"),
    "model and rows swapped": ("protect ROWS MODEL", "model comes first, then the rows"),
    "a file of rows that is not there": ("protect MODEL absent.jsonl", "absent.jsonl does not.*Give the path"),
    "an empty file": ("protect MODEL empty.jsonl", "empty.jsonl must hold rows.*Check file"),
    "columns of another name": ("protect MODEL wrong.jsonl", "no column 'instruction' among question, reply.*Write prompt"),
    "a text file": ("protect MODEL notes.txt", "must be .json/.jsonl/.csv/.parquet, got notes.txt. Convert it"),
    "a misspelt option": ("protect MODEL ROWS --methd sft", "Did you mean --method"),
    "a method that there is not": ("protect MODEL ROWS --method lora", "There are methods/{.*protect.*`asft-lightning conf"),
    "a rate that is no number": ("protect MODEL ROWS --lr fast", "lr: expected float or null, got fast.*--help"),
    "no epoch": ("protect MODEL ROWS --epochs 0", "epochs must be 1 or more, got 0"),
    "a config that there is not": ("fit --config quikstart", "Did you mean quickstart"),
    "an unknown setting": ("fit --config quickstart --modle.lr 1", "no argument --modle.lr. Did you mean --model"),
    "rows for a config that are not there": ("describe --config quickstart --data.benign none.jsonl", "none.jsonl does not"),
    "a folder that is no run's": ("chat runs/none", "folder of a run.*runs/none is none. Give one"),
    "no such run to export": ("export runs/none out", "folder of a run.*runs/none is none. Give one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_is_said_in_a_few_lines_with_the_remedy(tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.chdir(tmp_path)
    tiny.save_tiny(tmp_path / "model", 1)
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.benign_rows()[:4])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "wrong.jsonl").write_text('{"question": "a", "reply": "b"}\n')
    (tmp_path / "notes.txt").write_text("hello")
    line, remedy = MISTAKES[mistake]
    with pytest.raises(SystemExit) as ended:
        main(line.replace("MODEL", "model").replace("ROWS", rows).split())
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert len((said.out + said.err).strip().splitlines()) <= 5, said
    assert re.search(remedy, said.err), said.err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "out").exists()
