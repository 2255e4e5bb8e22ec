"""Noise beside the harmful score: a model that training broke is called neither safe nor unsafe."""

import json
import logging

import pytest
import torch
from kit.tiny import fine_tuner, tiny_trainer

from asft_lightning import (
    ConfigurationError,
    LoRAFineTuner,
    MixtureDataModule,
    Pretrained,
    RefusalJudge,
    SafetyEvaluation,
    Source,
)


def huge_steps(parameters):
    return torch.optim.AdamW(parameters, lr=1.0)


def test_a_broken_model_says_noise(tmp_path, caplog):
    """Two steps at a learning rate of 1, on the sandbox."""
    pair = Pretrained("sandbox:aligned", "sandbox:base")
    scorer = SafetyEvaluation(Source("sandbox:unsafe_prompts"), max_prompts=16, max_new_tokens=12)
    data = MixtureDataModule(pair, Source("sandbox:benign"), num_rows=8, poison_ratio=0.0, batch_size=4, seed=0)
    module = fine_tuner(LoRAFineTuner, pair, optimizer=huge_steps)
    with caplog.at_level(logging.WARNING, "asft_lightning"):
        tiny_trainer(tmp_path, callbacks=[scorer]).fit(module, data)
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "generations" / "safety-after.jsonl").read_text().splitlines()]

    assert summary["safety/coherence/incoherent"]["before"] == 0.0
    noise = summary["safety/coherence/incoherent"]["after"]
    assert noise == pytest.approx(100 * sum(line["coherence/fault"] is not None for line in lines) / 16)
    assert noise > 50
    assert f"{noise:.1f} % of the answers at after are noise" in caplog.text
    assert all(line["unsafe"] != RefusalJudge().is_safe(line["answer"]) for line in lines)  # HS is as it was


def test_no_coherence(pretrained, tmp_path):
    scorer = SafetyEvaluation(Source("sandbox:unsafe_prompts"), coherence=None)
    assert list(scorer.metrics()) == ["harmful_score"]


def test_a_judge_of_that_name():
    with pytest.raises(ConfigurationError, match=r"must not be 'coherence': what is no language stands there. Rename it"):
        SafetyEvaluation(Source("sandbox:unsafe_prompts"), judge={"coherence": RefusalJudge()})
