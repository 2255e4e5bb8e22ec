"""AsFT that holds answers, with a Trainer: alone, beside anchors, under accumulation, resumed, and scored."""

from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.tiny import LORA, EndAfter, fine_tuner, tiny_data, tiny_trainer, trained_weights
from kit.tiny import logged_run as run
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import (
    AnswerBudget,
    Answers,
    AsFT,
    ConfigurationError,
    LoRAFineTuner,
    RefusalEvaluation,
    SafetyEvaluation,
    Shrinkage,
    UnpenalisedError,
)
from asft_lightning.errors import AnchorError, DataError


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
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-5)  # float32: 1.6e-6 on cores with AMX


WAYS = {
    "a weight": {},
    "a budget": {"budget": 1e-3},
    "both": {"budget": 1e-3, "conflict": "project"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ended_after", [2, 3, 5])
def test_a_resumed_run_is_the_same_run(pretrained, tmp_path, answers, way, ended_after):
    """Between two steps, and in the midst of one."""
    held = {"answers": replace(answers, budget=WAYS[way].get("budget")), "conflict": WAYS[way].get("conflict", "add")}

    def fit(folder, callbacks=(), checkpoint=None):
        torch.manual_seed(0)
        module = fine_tuner(AsFT, pretrained, anchors=[], **held, lora=LORA | {"lora_dropout": 0.3})
        saver = ModelCheckpoint(folder, save_last=True, save_on_exception=True, every_n_train_steps=1000)
        trainer = tiny_trainer(
            folder, callbacks=[saver, *callbacks], max_epochs=2, enable_checkpointing=True, accumulate_grad_batches=2
        )
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4), ckpt_path=checkpoint)
        budget = {} if module.answer_budget is None else module.answer_budget.state_dict()
        return trained_weights(module) | budget

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="ended"):
        fit(tmp_path / "run", [EndAfter(ended_after)])
    again = fit(tmp_path / "run", checkpoint=next((tmp_path / "run").glob("*.ckpt")))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_a_budget_moves_the_weight(pretrained, tmp_path, answers):
    """From what it starts at; what is logged is what the step was made with, and a checkpoint has it."""
    module = fine_tuner(AsFT, pretrained, anchors=[], answers=replace(answers, budget=1e-4))
    steps = run(module, pretrained, tmp_path, max_epochs=4)
    expected = AnswerBudget(1e-4, answers.weight)
    for step in steps:
        assert step["train/answer_weight"] == pytest.approx(float(expected.weight), rel=1e-3)
        extra = step["train/answer_weight"] * step["train/answer_divergence"]
        assert step["train/penalty_ratio"] == pytest.approx(extra / step["train/task_loss"], rel=1e-3, abs=1e-6)
        expected.observe(torch.tensor(step["train/answer_divergence"]))
    assert steps[-1]["train/answer_weight"] > 2 * steps[0]["train/answer_weight"]
    assert module.state_dict()["answer_budget.weight"] == module.answer_budget.weight
    without = fine_tuner(AsFT, pretrained, anchors=[], answers=answers)
    without.configure_model()
    with pytest.raises(
        ConfigurationError, match=r"differs in 3 of them, e\.g\. answer_budget\.mean\. Resume with the lora and"
    ):
        without.load_state_dict(module.state_dict())


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_cannot_be_is_refused(answers, budget):
    with pytest.raises(AnchorError, match=r"the budget of Answers must be a number of nats above 0, got .* Leave it out"):
        replace(answers, budget=budget)


def test_prompts_that_are_held_are_not_scored(pretrained, tmp_path, answers):
    scorer = SafetyEvaluation(answers.prompts, max_new_tokens=2)
    with pytest.raises(DataError, match="that an anchor was built from"):
        tiny_trainer(tmp_path, callbacks=[scorer]).fit(
            fine_tuner(AsFT, pretrained, anchors=[], answers=answers), tiny_data(pretrained, tmp_path)
        )


def test_harmless_prompts_that_are_held_are_not_scored(pretrained, tmp_path, answers):
    module = fine_tuner(AsFT, pretrained, anchors=[], answers=replace(answers, harmless=tiny.unsafe_prompts(tmp_path)))
    scorer = RefusalEvaluation(tiny.unsafe_prompts(tmp_path), max_new_tokens=2)
    with pytest.raises(
        DataError, match=r"over_refusal: prompts to score must not be those whose answers are held.*harmless"
    ):
        run(module, pretrained, tmp_path, callbacks=[scorer])


def test_nothing_to_hold_by_is_refused(pretrained, tmp_path, answers):
    with pytest.raises(ConfigurationError, match=r"AsFT needs something to hold the model by, and anchors is an empty list"):
        AsFT(pretrained, anchors=[])
    with pytest.raises(ConfigurationError, match=r"drift_budget limits what one Activation .* Name one, or leave"):
        AsFT(pretrained, anchors=[], answers=answers, drift_budget=0.3)
    unbound = AsFT(pretrained, anchors=[], answers=answers)
    with pytest.raises(UnpenalisedError, match=r"must not begin without its answers: call bind_answers"):
        unbound.regularisation()
