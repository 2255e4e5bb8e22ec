"""RunCost: what a run cost, and that it ended."""

import pytest
from kit import tiny

from asft_lightning import LoRAFineTuner, SafetyEvaluation, Source
from asft_lightning.callbacks.run_cost import RunCost
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary


class Slow(LoRAFineTuner):
    """Each step seems to take a second; scoring is as fast as it is."""

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        self.clock.append(1.0)


class Broken(LoRAFineTuner):
    def on_train_batch_end(self, *args):
        raise RuntimeError("broken")


def fit(kind, pretrained, folder, monkeypatch):
    """``perf_counter`` is the sum of ``clock``: a second a step, ten for each scoring."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: sum(clock))
    prompts = Source(tiny.write_rows(folder / "unsafe.jsonl", [{"instruction": "open safe", "output": "no"}]))
    scorer = SafetyEvaluation(prompts, max_new_tokens=2)
    score = scorer.score
    monkeypatch.setattr(scorer, "score", lambda *args: clock.append(10.0) or score(*args))
    module = tiny.fine_tuner(kind, pretrained)
    module.clock = clock
    data = tiny.tiny_data(pretrained, folder, batch_size=4)
    tiny.tiny_trainer(folder / "run", callbacks=[scorer, RunCost()]).fit(module, data)
    return Summary.read(RunFolder(folder / "run")).run


def test_time_is_without_scoring(pretrained, tmp_path, monkeypatch):
    """16 rows in batches of 4: four steps of a second; two scorings of ten are not of training."""
    facts = fit(Slow, pretrained, tmp_path, monkeypatch)
    assert facts.scoring_seconds == {"safety": 20.0}
    assert facts.training_seconds == pytest.approx(4.0)
    assert 100 < facts.peak_memory_mib < 100_000
    assert facts.ended is True


def test_run_that_broke_off_did_not_end(pretrained, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="broken"):
        fit(Broken, pretrained, tmp_path, monkeypatch)
    assert not Summary.read(RunFolder(tmp_path / "run")).run.ended
