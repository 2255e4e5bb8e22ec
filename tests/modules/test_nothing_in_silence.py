"""Settings with which a run would train nothing, or with less protection than was asked for, without a word."""

import json
from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, OnExceptionCheckpoint, StochasticWeightAveraging

from asft_lightning import AsFT, ConfigurationError, LoRAFineTuner, Shrinkage
from asft_lightning.anchors import Answers, KeptAnswers
from asft_lightning.errors import AnchorError
from asft_lightning.modules.sound_optimizer import sound_optimizer


@pytest.mark.parametrize("limit", ["max_steps", "max_epochs", "limit_train_batches"])
def test_fit_without_a_step(pretrained, tmp_path, limit):
    trainer = tiny_trainer(tmp_path, **{limit: 0})
    with pytest.raises(
        ConfigurationError, match=rf"a fit must take a step at least, got trainer.{limit} 0. Leave it out, or"
    ):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path, batch_size=4))
    trainer.test(
        fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path, batch_size=4)
    )  # trains nothing anyway


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            lambda _: StochasticWeightAveraging(0.1),
            "must write the weights that it trains, and StochasticWeightAveraging would",
        ),
        (
            lambda _: EMAWeightAveraging(),
            "must write the weights that it trains, and EMAWeightAveraging would average others",
        ),
        (
            OnExceptionCheckpoint,
            "must begin anew unless ckpt_path is given, and with OnExceptionCheckpoint it",
        ),
    ],
)
def test_callbacks_that_would_do_something_else(pretrained, tmp_path, callback, message):
    trainer = tiny_trainer(tmp_path, callbacks=[callback(tmp_path)], enable_checkpointing=True)
    with pytest.raises(ConfigurationError, match=message):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path, batch_size=4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda trained: torch.optim.AdamW(trained, lr=0.1, maximize=True), "must minimise the loss, .* got maximize true"),
        (lambda trained: torch.optim.SGD(trained[1:], lr=0.1), "1 of 2 weights are in none of its groups: they would stay"),
        (lambda trained: torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), "2 of 2 weights are in none of its"),
    ],
    ids=["uphill", "without one", "of others"],
)
def test_optimizer_that_does_not_train_what_it_is_given(make, message):
    with pytest.raises(ConfigurationError, match=message):
        sound_optimizer(make, [torch.nn.Parameter(torch.ones(2)) for _ in range(2)])


def test_module_asks_for_a_sound_optimizer(pretrained):
    module = fine_tuner(AsFT, pretrained, optimizer=lambda trained: torch.optim.AdamW(trained, maximize=True))
    module.configure_model()
    with pytest.raises(ConfigurationError, match=r"must minimise"):
        module.configure_optimizers()


@pytest.mark.parametrize(("steps", "warns"), [(2, True), (4, False)])
def test_warm_up_that_ends_after_the_run(pretrained, tmp_path, recwarn, steps, warns):
    module = fine_tuner(AsFT, pretrained, anchors=[Shrinkage()], lambda_warmup_steps=4)
    tiny_trainer(tmp_path, max_epochs=-1, max_steps=steps).fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    said = [str(warning.message) for warning in recwarn if "lambda_warmup_steps" in str(warning.message)]
    expected = "should be at most the run's 2 steps, got 4: λ would end at 0.5 in place of 1. Lower it."
    assert said == ([f"lambda_warmup_steps {expected}"] if warns else [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": 0}, "lora_alpha must be a positive number, .* got 0"),
        ({"lora_alpha": -8}, "lora_alpha must be a positive number, .* got -8"),
        ({"alpha_pattern": {"never": "x"}}, "lora_alpha must be a positive number, .* got 'x'"),
        ({"lora_dropout": 1.0}, "lora_dropout must be 0 or more and below 1, .* got 1.0"),
    ],
    ids=str,
)
def test_adapter_that_would_not_be_trained(pretrained, tmp_path, settings, message):
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    module = LoRAFineTuner(pretrained, adapter=adapter)
    with pytest.raises(ConfigurationError, match=f"adapter .* cannot be gone on from: {message}"):
        module.configure_model()


def test_answers_of_nothing(tmp_path):
    kept = KeptAnswers(
        torch.ones(1, 3, dtype=torch.int64), torch.tensor([1]), torch.tensor([2]), torch.ones(1, 2, 4), ("a",)
    )
    for place in ((0, 0), (0, 1)):
        hidden = kept.hidden.clone()
        hidden[place] = 0
        replace(kept, hidden=hidden).save(tmp_path / "answers.safetensors")
        with pytest.raises(AnchorError, match=r"hidden states must not be 0"):
            KeptAnswers.load(tmp_path / "answers.safetensors")


def test_answers_of_the_cache_that_are_to_something_else(pretrained, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("asft_lightning.anchors.answers.cache_folder", lambda: tmp_path / "cache")
    module = fine_tuner(AsFT, pretrained)
    answers = [Answers(tiny.unsafe_prompts(tmp_path, 2, first, f"from-{first}"), max_new_tokens=2) for first in (0, 7)]
    built = module.build_answers(answers[0])
    (file,) = (tmp_path / "cache" / "answers").glob("*.safetensors")
    module.build_answers(answers[1]).save(file)
    assert module.build_answers(answers[0]).sha256() == built.sha256()
    assert "holds the answers to something else. Building them again." in caplog.text
