"""AsFT that holds answers, with a Trainer: alone, beside anchors, under accumulation, resumed, and scored."""

import pytest
import torch
from kit import tiny
from kit.tiny import LORA, EndAfter, fine_tuner, tiny_data, tiny_trainer, trained_weights
from kit.tiny import logged_run as run
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import Answers, AsFT, ConfigurationError, LoRAFineTuner, SafetyEvaluation, Shrinkage, UnpenalisedError
from asft_lightning.errors import DataError


@pytest.fixture
def answers(tmp_path):
    return Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=4, weight=5.0)


def test_answers_drift_less_than_unheld(pretrained, tmp_path, answers):
    held = fine_tuner(AsFT, pretrained, anchors=[], answers=answers)
    steps = run(held, pretrained, tmp_path, max_epochs=4)
    free = fine_tuner(LoRAFineTuner, pretrained)
    tiny_trainer(tmp_path / "free", max_epochs=4).fit(free, tiny_data(pretrained, tmp_path, batch_size=4))
    divergences = [float(held.answer_penalty(module.model, 1).detach()) for module in (held, free)]
    assert divergences[0] < 0.5 * divergences[1]
    assert steps[0]["train/answer_divergence"] == pytest.approx(0.0, abs=1e-6)
    assert all(step["train/answer_divergence"] > 0 for step in steps[1:])
    assert held.fingerprint()["answers_sha256"] == held.kept_answers.sha256()


def test_the_sum_is_that_of_its_parts(pretrained, tmp_path, answers):
    module = fine_tuner(AsFT, pretrained, anchors=[Shrinkage()], lambda_reg=2.0, answers=answers)
    steps = run(module, pretrained, tmp_path)
    for step in steps:
        extra = 2.0 * step["train/penalty"] + 5.0 * step["train/answer_divergence"]
        assert step["train/penalty_ratio"] == pytest.approx(extra / step["train/task_loss"], rel=1e-4, abs=1e-6)


def test_the_weight_means_the_same_under_accumulation(pretrained, tmp_path, answers):
    """Batches of 8 in one piece or in four: the same steps, but for rounding."""

    def trained(batch_size, pieces):
        torch.manual_seed(0)
        sgd = lambda p: torch.optim.SGD(p, lr=0.5)  # noqa: E731
        module = fine_tuner(AsFT, pretrained, anchors=[], answers=answers, loss_reduction="row", optimizer=sgd)
        trainer = tiny_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=pieces)
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=batch_size))
        assert trainer.global_step == 4
        return trained_weights(module)

    whole, parts = trained(8, 1), trained(2, 4)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ended_after", [2, 3, 5])
def test_a_resumed_run_is_the_same_run(pretrained, tmp_path, answers, ended_after):
    def fit(folder, callbacks=(), checkpoint=None):
        torch.manual_seed(0)
        module = fine_tuner(AsFT, pretrained, anchors=[], answers=answers, lora=LORA | {"lora_dropout": 0.3})
        saver = ModelCheckpoint(folder, save_last=True, save_on_exception=True, every_n_train_steps=1000)
        trainer = tiny_trainer(
            folder, callbacks=[saver, *callbacks], max_epochs=2, enable_checkpointing=True, accumulate_grad_batches=2
        )
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4), ckpt_path=checkpoint)
        return trained_weights(module)

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="ended"):
        fit(tmp_path / "run", [EndAfter(ended_after)])
    again = fit(tmp_path / "run", checkpoint=next((tmp_path / "run").glob("*.ckpt")))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_prompts_that_are_held_are_not_scored(pretrained, tmp_path, answers):
    scorer = SafetyEvaluation(answers.prompts, max_new_tokens=2)
    with pytest.raises(DataError, match="that an anchor was built from"):
        tiny_trainer(tmp_path, callbacks=[scorer]).fit(
            fine_tuner(AsFT, pretrained, anchors=[], answers=answers), tiny_data(pretrained, tmp_path)
        )


def test_nothing_to_hold_by_is_refused(pretrained, tmp_path, answers):
    with pytest.raises(ConfigurationError, match=r"AsFT needs something to hold the model by, and anchors is an empty list"):
        AsFT(pretrained, anchors=[])
    with pytest.raises(ConfigurationError, match=r"drift_budget limits what one Activation .* Name one, or leave"):
        AsFT(pretrained, anchors=[], answers=answers, drift_budget=0.3)
    unbound = AsFT(pretrained, anchors=[], answers=answers)
    with pytest.raises(UnpenalisedError, match=r"must not begin without its answers: call bind_answers"):
        unbound.regularisation()
