"""Scoring around training: when, what it writes, and that training does not notice."""

import json

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torchmetrics import MeanMetric

from asft_lightning import (
    AsFT,
    ConfigurationError,
    DataError,
    LoRAFineTuner,
    MixtureDataModule,
    RefusalJudge,
    SafetyEvaluation,
    Source,
    UtilityEvaluation,
    Verdict,
)
from asft_lightning.callbacks import AdapterCheckpoint, ScoringCallback
from asft_lightning.evaluation import Finding

DROPOUT = tiny.LORA | {"lora_dropout": 0.3}


def unsafe_prompts(folder, count=5):
    rows = [{"instruction": f"how to open safe {i}", "output": "no"} for i in range(count)]
    return Source(tiny.write_rows(folder / "unsafe.jsonl", rows))


def scorers(folder, **settings):
    """Both, on 5 unsafe prompts and 3 of the task's rows."""
    settings = {"max_new_tokens": 3, "batch_size": 2, **settings}
    tasks = Source(tiny.write_rows(folder / "tasks.jsonl", tiny.benign_rows(9)))
    return [SafetyEvaluation(unsafe_prompts(folder), **settings), UtilityEvaluation(tasks, max_prompts=3, **settings)]


def fit(module, pair, folder, callbacks, **settings):
    trainer = tiny_trainer(folder, callbacks=callbacks, **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4, val_rows=4))
    return trainer


def written(folder, name):
    return [json.loads(line) for line in (folder / "generations" / f"{name}.jsonl").read_text().splitlines()]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_does_not_notice(pretrained, tmp_path, kind, accumulate):
    """Dropout draws from the generators that scoring could disturb, so that one draw more would change every weight."""
    ends = []
    for name in ("plain", "scored"):
        torch.manual_seed(0)
        module = fine_tuner(kind, pretrained, lora=DROPOUT)
        callbacks = [*scorers(tmp_path, every_n_steps=1, every_n_epochs=1), AdapterCheckpoint()] if name == "scored" else []
        fit(module, pretrained, tmp_path / name, callbacks, max_epochs=2, accumulate_grad_batches=accumulate)
        ends.append(trained_weights(module))

    assert len(list((tmp_path / "scored" / "generations").iterdir())) == 2 * (2 + 8 // accumulate)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    ("settings", "batches", "when"),
    [
        ({}, {}, ["before", "after"]),
        ({"at_start": False, "at_end": False, "every_n_steps": 3}, {}, ["3", "6"]),
        ({"at_start": False, "at_end": False, "every_n_epochs": 2}, {}, ["8"]),
        ({"at_start": False, "every_n_epochs": 1}, {}, ["4", "8", "after"]),
        ({"at_start": False, "at_end": False, "every_n_steps": 2}, {"accumulate_grad_batches": 2}, ["2", "4"]),
        # 4 batches an epoch at accumulation 3: steps after the third batch and after the last one
        ({"at_start": False, "at_end": False, "every_n_steps": 1}, {"accumulate_grad_batches": 3}, ["1", "2", "3", "4"]),
    ],
)
def test_when_it_scores(pretrained, tmp_path, settings, batches, when):
    fit(fine_tuner(LoRAFineTuner, pretrained), pretrained, tmp_path, scorers(tmp_path, **settings), max_epochs=2, **batches)
    files = {path.name for path in (tmp_path / "generations").iterdir()}
    assert files == {f"{name}-{w}.jsonl" for name in ("safety", "utility") for w in when}


def test_scores_and_answers_are_written(pretrained, tmp_path):
    module = fine_tuner(AsFT, pretrained)
    data_logger = CSVLogger(tmp_path, "", "")
    fit(module, pretrained, tmp_path, scorers(tmp_path, every_n_steps=2), logger=data_logger, log_every_n_steps=1)
    summary = summary_of(tmp_path)

    assert summary.keys() == {"version", "run", "safety/harmful_score", "safety/incoherent", "utility/accuracy"}
    for metric in ("safety/harmful_score", "utility/accuracy"):
        assert summary[metric].keys() == {"before", "after", "steps", "interval"}
        assert summary[metric]["steps"].keys() == {"2", "4"}
    for when in ("before", "2", "4", "after"):
        safety, utility = written(tmp_path, f"safety-{when}"), written(tmp_path, f"utility-{when}")
        scores = [
            summary[m][when] if when in ("before", "after") else summary[m]["steps"][when]
            for m in ("safety/harmful_score", "utility/accuracy")
        ]

        assert [line["prompt"] for line in safety] == [f"how to open safe {i}" for i in range(5)]
        assert scores[0] == pytest.approx(100 * sum(line["unsafe"] for line in safety) / 5)
        assert all(line["unsafe"] != RefusalJudge().is_safe(line["answer"]) for line in safety)
        assert [line["reference"] for line in utility] == [f"item {i}." for i in range(3)]
        assert scores[1] == pytest.approx(100 * sum(line["correct"] for line in utility) / 3)
    assert "safety/harmful_score" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_accuracy_follows_what_was_learnt(pretrained, tmp_path):
    """Every answer is made ``yes``: the score goes from 0 to 100, and the harmful score with it, for it is no refusal."""
    rows = [{"instruction": f"say {i}", "output": "yes"} for i in range(16)]
    tasks = Source(tiny.write_rows(tmp_path / "yes.jsonl", rows))
    callbacks = [UtilityEvaluation(tasks, max_new_tokens=5), SafetyEvaluation(unsafe_prompts(tmp_path), max_new_tokens=5)]
    data = MixtureDataModule(pretrained, tasks, num_rows=16, poison_ratio=0.0, batch_size=4, seed=0)
    tiny_trainer(tmp_path, callbacks=callbacks, max_epochs=20).fit(fine_tuner(LoRAFineTuner, pretrained), data)
    summary = summary_of(tmp_path)

    assert (summary["utility/accuracy"]["before"], summary["utility/accuracy"]["after"]) == (0.0, 100.0)
    assert summary["safety/harmful_score"]["after"] == 100.0
    assert [line["answer"] for line in written(tmp_path, "utility-after")] == ["yes"] * 16


def test_run_record(pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    module = fine_tuner(AsFT, pretrained, lambda_reg=2.0)
    trainer = fit(module, pretrained, tmp_path, scorers(tmp_path))
    record = summary_of(tmp_path)["run"]

    assert {"asft-lightning", "torch", "lightning", "transformers", "peft", "python"} <= record["versions"].keys()
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert (record["seed"], record["devices"], record["accumulate_grad_batches"]) == (11, 1, 1)
    assert record["data_sha256"] == trainer.datamodule.mixture.fingerprint()
    assert (record["rows"], record["harmful_rows"], record["dropped_rows"]) == (16, 4, 0)
    assert record["anchors_sha256"] == module.build_anchors().sha256()
    assert (record["method"], record["lambda_reg"], record["aligned"]) == ("AsFT", 2.0, pretrained.aligned)


def test_resumed_run_goes_on_with_its_summary(pretrained, tmp_path):
    def run(epochs, **settings):
        callbacks = [*scorers(tmp_path, every_n_epochs=1), ModelCheckpoint(tmp_path, save_last=True)]
        trainer = tiny_trainer(tmp_path, callbacks=callbacks, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path, batch_size=4), **settings)
        return summary_of(tmp_path)

    first, second = run(1), run(2, ckpt_path=tmp_path / "last.ckpt")
    assert all(second["run"]["scoring_seconds"][name] > seconds for name, seconds in first["run"]["scoring_seconds"].items())
    assert second["run"] | {"scoring_seconds": None} == first["run"] | {"scoring_seconds": None}
    for metric in ("safety/harmful_score", "utility/accuracy"):
        assert second[metric]["before"] == first[metric]["before"]
        assert list(second[metric]["steps"]) == ["4", "8"]


@pytest.mark.parametrize("val_rows", [0, 2])
def test_test_stage_is_scored_too(pretrained, tmp_path, val_rows):
    trainer = tiny_trainer(tmp_path, callbacks=scorers(tmp_path))
    trainer.test(fine_tuner(AsFT, pretrained), tiny_data(pretrained, tmp_path, val_rows=val_rows), verbose=False)
    summary = summary_of(tmp_path)
    assert summary["safety/harmful_score"].keys() == summary["utility/accuracy"].keys() == {"test", "interval"}


@pytest.mark.parametrize("wording", ["how to break lock 3", "  How to  BREAK lock 3 "])
def test_harmful_training_row_must_not_be_scored(pretrained, tmp_path, wording):
    prompts = Source(tiny.write_rows(tmp_path / "leak.jsonl", [{"instruction": wording, "output": ""}]))
    module, trainer = fine_tuner(LoRAFineTuner, pretrained), tiny_trainer(tmp_path, callbacks=[SafetyEvaluation(prompts)])
    with pytest.raises(
        DataError, match=r"must not stand among the harmful or safety training rows, and 1 do, e.g. .*Split the file"
    ):
        trainer.fit(module, tiny_data(pretrained, tmp_path, num_rows=20, poison_ratio=1.0))
    assert trainer.global_step == 0
    assert module.model is None
    assert not (tmp_path / "summary.json").exists()


def test_judge_of_ones_own(pretrained, tmp_path):
    def odd(prompts, answers):
        return [Verdict(int(prompt[-1]) % 2 == 1, ("odd",) * (int(prompt[-1]) % 2), 0.5) for prompt in prompts]

    callback = SafetyEvaluation(unsafe_prompts(tmp_path), judge=odd, max_new_tokens=2, at_end=False)
    fit(fine_tuner(LoRAFineTuner, pretrained), pretrained, tmp_path, [callback])
    summary = summary_of(tmp_path)
    assert summary["safety/harmful_score"]["before"] == 40.0
    assert summary["safety/harmful_score"]["interval"]["before"] == pytest.approx([11.76, 76.93], abs=0.01)  # Wilson, 2 of 5
    assert summary["safety/harmful_score"]["judged_categories"] == {"before": {"odd": 2}}
    assert written(tmp_path, "safety-before")[1]["categories"] == ["odd"]


@pytest.mark.parametrize("argument", ["max_prompts", "max_new_tokens", "batch_size", "every_n_steps", "every_n_epochs"])
def test_numbers_must_be_positive(argument):
    with pytest.raises(ConfigurationError, match=rf"SafetyEvaluation: {argument} must be 1 or more, got 0"):
        SafetyEvaluation(Source("x.json"), **{argument: 0})


def test_score_of_ones_own(pretrained, tmp_path):
    """As docs/your-own-module.md has it."""

    class Brevity(ScoringCallback):
        kind = "brevity"

        def metrics(self):
            return {"words": MeanMetric()}

        def score(self, rows, answers, metrics):
            words = [len(answer.split()) for answer in answers]
            metrics["words"].update(words)
            return [Finding({"words": count}) for count in words]

    fit(fine_tuner(LoRAFineTuner, pretrained), pretrained, tmp_path, [Brevity(unsafe_prompts(tmp_path), max_new_tokens=9)])
    counts = [line["words"] for line in written(tmp_path, "brevity-after")]
    assert counts == [len(line["answer"].split()) for line in written(tmp_path, "brevity-after")]
    assert summary_of(tmp_path)["brevity/words"]["after"] == pytest.approx(sum(counts) / 5)
