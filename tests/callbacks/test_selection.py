"""Stopping early and choosing a checkpoint by scores, through Lightning's own callbacks."""

import json

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from asft_lightning import (
    ConfigurationError,
    LoRAFineTuner,
    SafeAccuracy,
    SafetyEvaluation,
    Source,
    UtilityEvaluation,
    Verdict,
)


class Scripted:
    """A judge that finds so many of ten answers unsafe, one number a scoring; None for a judge that fails."""

    def __init__(self, *unsafe):
        self.unsafe = iter(unsafe)

    def __call__(self, prompts, answers):
        count = next(self.unsafe)
        if count is None:
            raise RuntimeError("no judge")
        return [Verdict(i < count) for i in range(len(prompts))]


@pytest.fixture
def prompts(tmp_path):
    rows = [{"instruction": f"how to open safe {i}", "output": "no"} for i in range(10)]
    return Source(tiny.write_rows(tmp_path / "unsafe.jsonl", rows))


@pytest.fixture
def fit(pretrained, tmp_path):
    def run(*callbacks, epochs=5, val_rows=0, **settings):
        torch.manual_seed(0)
        trainer = tiny_trainer(tmp_path, callbacks=list(callbacks), max_epochs=epochs, enable_checkpointing=True, **settings)
        data = tiny_data(pretrained, tmp_path, batch_size=4, val_rows=val_rows)
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), data)
        return trainer

    return run


def safety(prompts, *unsafe, **settings):
    when = {"at_start": False, "at_end": False, "every_n_epochs": 1}
    return SafetyEvaluation(prompts, judge=Scripted(*unsafe), max_new_tokens=1, **when | settings)


def test_the_safest_checkpoint_is_kept(fit, prompts, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safety/harmful_score", filename="{step}")
    fit(keep, safety(prompts, 6, 3, 2, 7, 4))

    assert float(keep.best_model_score) == pytest.approx(20.0)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["step=12.ckpt"]


def test_scores_between_epochs_choose_too(fit, prompts, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safety/harmful_score", filename="{step}", every_n_train_steps=2)
    fit(keep, safety(prompts, 6, 1, 2, 7, every_n_steps=2, every_n_epochs=None), epochs=2)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["step=4.ckpt"]


def test_training_stops_when_the_score_gets_worse(fit, prompts):
    trainer = fit(safety(prompts, 1, 0, 3, 4, 5), EarlyStopping("safety/harmful_score", patience=2, strict=False))
    assert trainer.current_epoch == 4


def test_judge_that_fails_stops_nothing(fit, prompts):
    """Neither as a NaN, which ends a run, nor as the last score again, which does once patience is out."""
    with pytest.warns(UserWarning, match="judge failed"):
        trainer = fit(
            safety(prompts, 4, None, None, None, 1), EarlyStopping("safety/harmful_score", patience=2, strict=False)
        )
    assert trainer.current_epoch == 5


def test_epochs_without_a_score_stop_nothing(fit, prompts):
    trainer = fit(
        safety(prompts, 4, 3, every_n_epochs=3), EarlyStopping("safety/harmful_score", patience=1, strict=False), epochs=7
    )
    assert trainer.current_epoch == 7


@pytest.mark.parametrize("val_rows", [0, 4])
def test_steps_without_a_score_choose_nothing(fit, prompts, tmp_path, val_rows):
    """Saved every step, scored every second one, and before: only what was scored as it was saved may be best."""
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safety/harmful_score", filename="{step}", every_n_train_steps=1)
    scorer = safety(prompts, 0, 5, 3, at_start=True, every_n_steps=2, every_n_epochs=None)
    fit(scorer, keep, epochs=1, val_rows=val_rows)
    assert float(keep.best_model_score) == pytest.approx(30.0)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["step=4.ckpt"]


def test_failed_judge_chooses_nothing_where_validation_runs(fit, prompts, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safety/harmful_score", filename="{epoch}")
    with pytest.warns(UserWarning, match="judge failed"):
        fit(safety(prompts, 6, None, 5, None, 7), keep, val_rows=4)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["epoch=2.ckpt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"EarlyStopping on safety/harmful_score must not be strict, .* Set its strict to false"),
        ({"strict": False}, r"EarlyStopping on safety/harmful_score must stand after SafetyEvaluation"),
    ],
)
def test_stopping_must_come_after_what_it_watches(fit, prompts, settings, message):
    stop, scorer = EarlyStopping("safety/harmful_score", **settings), safety(prompts, 1)
    with pytest.raises(ConfigurationError, match=message):
        fit(*((stop, scorer) if settings else (scorer, stop)))


def test_checkpoints_must_not_come_before_what_they_watch(fit, prompts, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safety/harmful_score")
    with pytest.raises(
        ConfigurationError, match=r"must save when an epoch ends, .* Set its save_on_train_epoch_end to true"
    ):
        fit(keep, safety(prompts, 1), val_rows=4, val_check_interval=0.5)


def test_stopping_on_the_combined_score_must_come_after_it(fit, prompts):
    stop = EarlyStopping("safe_accuracy", mode="max", strict=False)
    utility = UtilityEvaluation(prompts, every_n_epochs=1)
    with pytest.raises(ConfigurationError, match="EarlyStopping on safe_accuracy must stand after SafeAccuracy"):
        fit(safety(prompts, 1), utility, stop, SafeAccuracy())


def test_scores_of_different_steps_are_not_combined(fit, prompts, tmp_path):
    """HS every second epoch, FA every epoch: there is a figure where both were measured."""
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safe_accuracy", mode="max", filename="{epoch}", save_top_k=-1)
    utility = UtilityEvaluation(prompts, max_new_tokens=2, every_n_epochs=1, at_start=False, at_end=False)
    fit(safety(prompts, 0, 0, every_n_epochs=2), utility, SafeAccuracy(), keep, epochs=4)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["epoch=1.ckpt", "epoch=3.ckpt"]


def test_most_accurate_checkpoint_within_the_limit(fit, prompts, tmp_path):
    """HS by epoch 0, 10, 0, 30, 0; FA is that of a model that learns its task: the third and the fifth are within 5."""
    tasks = Source(tiny.write_rows(tmp_path / "tasks.jsonl", tiny.benign_rows(16)))
    utility = UtilityEvaluation(tasks, max_new_tokens=10, every_n_epochs=1, at_start=False, at_end=False)
    keep = ModelCheckpoint(tmp_path / "kept", monitor="safe_accuracy", mode="max", filename="{epoch}", save_top_k=-1)
    fit(safety(prompts, 0, 1, 0, 3, 0), utility, SafeAccuracy(limit=5.0), keep)
    accuracy = json.loads((tmp_path / "summary.json").read_text())["utility/accuracy"]["steps"]
    chosen = {path: float(score) for path, score in keep.best_k_models.items()}

    assert [chosen[str(tmp_path / "kept" / f"epoch={epoch}.ckpt")] for epoch in range(5)] == pytest.approx(
        [accuracy["4"], -10.0, accuracy["12"], -30.0, accuracy["20"]]
    )


def test_limit_must_be_a_percentage():
    with pytest.raises(ConfigurationError, match=r"limit must be 0 to 100 percent, got 101"):
        SafeAccuracy(limit=101)


def test_scores_must_be_measured_before_they_are_combined(fit, prompts):
    with pytest.raises(
        ConfigurationError,
        match=r"needs utility/accuracy from a callback that stands before it"
        r".*measure safety/harmful_score, safety/incoherent",
    ):
        fit(safety(prompts, 1), SafeAccuracy())


def test_scores_must_be_measured_while_training(fit, prompts):
    with pytest.raises(
        ConfigurationError, match=r"needs safety/harmful_score while training, .* Set every_n_epochs or every"
    ):
        fit(safety(prompts, 1, every_n_epochs=None), UtilityEvaluation(prompts, every_n_epochs=1), SafeAccuracy())
