"""Mistakes that a newcomer makes: each ends with status 2 and in at most five lines, the last of which says what to do."""

import re
import shutil

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
    "a chat without an answer": (
        "protect MODEL asked.jsonl",
        "none of the 2 looked at in asked.jsonl has one. End each chat",
    ),
    "a broken line": ("protect MODEL broken.jsonl", "broken.jsonl cannot be read .line 2"),
    "a list of texts": ("protect MODEL texts.jsonl", "row 0 must be an object of columns, got 'hello'"),
    "a table with semicolons": ("protect MODEL excel.csv", "no column 'instruction' among instruction;output"),
    "an empty folder for rows": ("protect MODEL empty", "empty.*doesn't contain any data files"),
    "a path of a model that is not there": ("protect ./modle ROWS", "'./modle' must be.*no such path.*misspelt"),
    "a model without its tokenizer": ("protect untold ROWS", "untold must be a whole checkpoint.*tokenizer.*Get it again"),
    "test rows that are not there": ("protect MODEL ROWS --test none.jsonl", "none.jsonl does not.*Give the path"),
    "unsafe prompts that are not there": ("protect MODEL ROWS --unsafe none.jsonl", "none.jsonl does not.*Give the path"),
    "a folder that cannot be written": ("protect MODEL ROWS --out notes.txt/run", "must be written.*name another folder"),
    "a rate below 0": ("protect MODEL ROWS --lr -1", "lr must be a positive number, got -1.0"),
    "a budget below 0": ("protect MODEL ROWS --budget -1", "budget of Answers must be a number of nats above 0, got -1.0"),
    "a precision that there is not": ("protect MODEL ROWS --precision fp16", "precision.*bf16-mixed"),
    "a strategy that there is not": ("protect MODEL ROWS --strategy dpp", "settings must go together.*dpp"),
    "no device": ("protect MODEL ROWS --devices 0", "devices=0.* is not a valid input"),
    "layers that there are not": ("protect MODEL ROWS --targets q_prj", "no 'q_prj'. Leave it out for .*q_proj"),
    "a method that needs a base model": ("protect MODEL ROWS --method asft", "before its alignment.*Give --base"),
    "a device that there is not": (
        "fit --config quickstart --trainer.accelerator tpu",
        "must go together.*xla.*Change",
    ),
    "nothing but fit": ("fit", "pretrained.aligned: expected str, got None.*--help"),
    "a misspelt option": ("protect MODEL ROWS --methd sft", "Did you mean --method"),
    "names for what has a place": (
        "protect --model MODEL --data ROWS",
        "argument --model. It is given.*protect MODEL DATA",
    ),
    "a name for what has a place": ("generate runs/none --prompts=ROWS", "by its place.*: .* generate RUN PROMPTS OUTPUT"),
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
    (tmp_path / "asked.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n' * 2)
    (tmp_path / "broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"\n')
    (tmp_path / "texts.jsonl").write_text('"hello"\n')
    (tmp_path / "excel.csv").write_text("instruction;output\na;b\n")
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "model", tmp_path / "untold", ignore=shutil.ignore_patterns("*token*"))
    line, remedy = MISTAKES[mistake]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(line.replace("MODEL", "model").replace("ROWS", rows).split())
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert len((said.out + said.err).strip().splitlines()) <= 5, said
    assert re.search(remedy, said.err), said.err
    assert {path.name for path in tmp_path.glob("runs/*")} <= {"protect.yaml"} and not (tmp_path / "out").exists()
