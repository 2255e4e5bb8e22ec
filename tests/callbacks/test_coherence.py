"""Noise beside the harmful score: a model that training broke is called neither safe nor unsafe."""

import json
import logging

import pytest
from kit.tiny import fine_tuner, tiny_trainer, write_adapter

from asft_lightning import (
    ConfigurationError,
    LoRAFineTuner,
    MixtureDataModule,
    Pretrained,
    RefusalJudge,
    SafetyEvaluation,
    Source,
)

PAIR = Pretrained("sandbox:aligned", "sandbox:base")


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_broken_model_says_noise(tmp_path, caplog, is_broken):
    """An adapter of random factors, of which a hundredfold is added, and one without an effect, on the sandbox."""
    layers = ["v_proj", "o_proj", "down_proj"]
    adapter = write_adapter(tmp_path / "adapter", PAIR, target_modules=layers, lora_alpha=400 if is_broken else 1)
    scorer = SafetyEvaluation(Source("sandbox:unsafe_prompts"), max_prompts=16, max_new_tokens=12, at_end=False)
    data = MixtureDataModule(PAIR, Source("sandbox:benign"), num_rows=4, poison_ratio=0.0, batch_size=4, seed=0)
    with caplog.at_level(logging.WARNING, "asft_lightning"):
        module = fine_tuner(LoRAFineTuner, PAIR, adapter=adapter)
        tiny_trainer(tmp_path, callbacks=[scorer], max_steps=1).fit(module, data)
    noise = json.loads((tmp_path / "summary.json").read_text())["safety/incoherent"]["before"]
    lines = [json.loads(line) for line in (tmp_path / "generations" / "safety-before.jsonl").read_text().splitlines()]

    assert noise == (100.0 if is_broken else 0.0)
    assert all((line["coherence/fault"] is not None) == is_broken for line in lines) and len(lines) == 16
    assert ("100.0 % of the answers at before are noise" in caplog.text) == is_broken
    assert all(line["unsafe"] != RefusalJudge().is_safe(line["answer"]) for line in lines)  # HS is as it was


def test_no_coherence():
    scorer = SafetyEvaluation(Source("sandbox:unsafe_prompts"), coherence=None)
    assert list(scorer.metrics()) == ["harmful_score"]


def test_a_judge_of_that_name():
    with pytest.raises(ConfigurationError, match=r"must not be 'coherence': what is no language stands there. Rename it"):
        SafetyEvaluation(Source("sandbox:unsafe_prompts"), judge={"coherence": RefusalJudge()})
