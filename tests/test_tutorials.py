"""What the tutorials ask a reader to run."""

import os
import re
import runpy
from pathlib import Path

import pytest
import yaml
from kit import tiny

from asft_lightning.cli import main
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = {file.stem: file for file in DOCS.glob("notebooks/*.ipynb")}


def test_finished_adapter_is_scored_beside_the_model_without_it(tmp_path, tiny_pair, pretrained, monkeypatch, seed_stays):
    """The file on the page, with a model, an adapter and rows in their places."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "finished-adapter.md").read_text(encoding="utf-8")
    (file,) = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.benign_rows())
    for name, value in {"MODEL": tiny_pair[0], "ADAPTER": adapter, "ROWS": rows}.items():
        file = file.replace(f" {name}}}", f" {value}}}")
    config = yaml.safe_load(file.replace("max_new_tokens: 64", "max_new_tokens: 4, max_prompts: 4"))
    Path("check.yaml").write_text(yaml.safe_dump(config))
    lines = re.findall(r"^    asft-lightning (test .+)$", page, re.MULTILINE)
    for line in lines[:2]:
        main(line.split())
    with_adapter, before = (Summary.read(RunFolder(Path("runs", name))).scores for name in ("check", "check-before"))
    assert {"safety/harmful_score", "over_refusal/refusal_rate"} <= with_adapter.keys() & before.keys()
    assert [line.split()[-1] for line in lines[1:]] == ["runs/check-before", "runs/check-safer"]


def shown(notebook):
    """What its cells show, as HTML and as text."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(str(output.get("data", {}).get(kind, "")) for output in outputs for kind in ("text/html", "text/plain"))


SHOWN = {
    "fine-tune-and-look": r"Description\(1000 in all.*Summary\(AsFT: .*accuracy 0\.0 → (9|100).*Image object.*before.*after",
    "your-own-module": r"<th>plain</th>\s+<td>(100|9\d)\..*<th>protected</th>\s+<td>\d\..*data:image/png.*AnchorSet\(Gram",
}
"""{notebook: what it shows in turn}: HS is below ten where it is protected, and the task is learnt."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_notebook_runs_and_shows_what_is_kept(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    tools = runpy.run_path(str(DOCS / "run_notebooks.py"))
    assert NOTEBOOKS[name] in tools["NOTEBOOKS"]
    kept = tools["nbformat"].read(NOTEBOOKS[name], as_version=4)
    assert re.search(SHOWN[name], shown(kept), re.DOTALL)
    assert re.search(SHOWN[name], shown(tools["executed"](NOTEBOOKS[name], tmp_path)), re.DOTALL)


def test_every_notebook_is_run():
    assert SHOWN.keys() == NOTEBOOKS.keys()
