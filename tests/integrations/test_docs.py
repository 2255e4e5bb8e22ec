"""What docs/integrations.md shows is run as it stands there."""

import re
from pathlib import Path

import pytest
from trl import SFTTrainer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations.md"


def test_the_page_runs(tmp_path, monkeypatch):
    if not PAGE.is_file():
        pytest.skip(f"no {PAGE}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASFT_LIGHTNING_CACHE", str(tmp_path / "cache"))
    shown, trainers = {"__name__": "page"}, []
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), shown)
        trainers += [shown["trainer"]] if "AsFTTrainer(" in code or "SafeSFTTrainer(\n" in code else []
    *_, plain = trainers
    assert [isinstance(trainer, SFTTrainer) for trainer in trainers] == [True, True, False]
    logged = [{name for log in trainer.state.log_history for name in log} for trainer in trainers]
    assert "answer_divergence" in logged[0] and "penalty" in logged[1]
    scored = [log["step"] for log in plain.state.log_history if "safety/harmful_score" in log]
    assert scored == [0, 5, 10, 10] and "over_refusal/refusal_rate" in logged[2]
    assert len(shown["kept"]) == 160 and len(shown["rows"]) == 170
