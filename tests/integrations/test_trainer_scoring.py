"""Scoring in the trainers of Transformers and TRL: the figures of a Lightning run, and no trace in the training."""

import json

import pytest
from kit import tiny
from kit.trainers import PLAIN, Run, SafeSFTTrainer, difference, weights_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainerCallback

from asft_lightning import (
    Activation,
    Answers,
    AsFT,
    Attack,
    ConfigurationError,
    DataError,
    RefusalEvaluation,
    SafetyEvaluation,
    Shrinkage,
    Source,
    Template,
    UtilityEvaluation,
    Verdict,
)
from asft_lightning.integrations import AsFTTrainer, TrainerScoring

EVERY_KIND = pytest.mark.parametrize("kind", [AsFTTrainer, SafeSFTTrainer])


@pytest.fixture
def run(pretrained, tmp_path):
    return Run(pretrained, tmp_path, lora_dropout=0.2)


def by_letters(prompts, answers):
    """A judge that finds about half of all nonsense unsafe."""
    return [Verdict(sum(map(ord, answer)) % 2 == 1, ("odd",), 0.5) for answer in answers]


def scorers(folder, **when):
    when = {"every_n_steps": 4, "max_new_tokens": 6, **when}
    harmless = Source(tiny.write_rows(folder / "harmless.jsonl", tiny.benign_rows(5)))
    return [
        SafetyEvaluation(
            tiny.unsafe_prompts(folder, 5), judge=by_letters, attack=Attack(samples=2, temperature=1.0), **when
        ),
        RefusalEvaluation(harmless, name="refused", **when),
        UtilityEvaluation(harmless, **when),
    ]


def scores_in(trainer):
    """{step: {score: its value}}, the last of a step."""
    found = {}
    for log in trainer.state.log_history:
        scores = {name: value for name, value in log.items() if "/" in name}
        if scores:
            found.setdefault(log["step"], []).append(scores)
    return found


@pytest.mark.parametrize("template", [Template(), Template(system="Be brief.")], ids=["chat", "system prompt"])
@EVERY_KIND
def test_the_figures_are_those_of_a_lightning_run(run, kind, tmp_path, template):
    lora = run.lora | {"lora_dropout": 0.0}
    module = AsFT(run.pair, lora, template, optimizer=tiny.fast_adamw, anchors=[Shrinkage()])
    module.model = Run(run.pair, tmp_path / "same").model()
    theirs = Run(run.pair, tmp_path / "same")
    batches = theirs.batches(4)
    tiny.tiny_trainer(tmp_path / "ours", max_epochs=2, callbacks=scorers(tmp_path)).fit(module, batches)
    summary = json.loads((tmp_path / "ours" / "summary.json").read_text())
    args = theirs.arguments(kind, learning_rate=1e-2)
    trainer = theirs.trainer(kind, args, anchors=[Shrinkage()], template=template)
    trainer.add_callback(TrainerScoring(trainer, *scorers(tmp_path)))
    trainer.train()
    scores = scores_in(trainer)
    names = [name for name in summary if "/" in name and not name.endswith("seconds")]
    assert {"safety/harmful_score", "safety/harmful_score_worst", "safety/incoherent", "refused/refusal_rate"} < set(names)
    for name in names:
        told = summary[name]
        expected = {0: [told["before"]], 4: [told["steps"]["4"]], 8: [told["steps"]["8"], told["after"]]}
        found = {step: [given[name] for given in of_step if name in given] for step, of_step in scores.items()}
        assert found == {step: pytest.approx(values) for step, values in expected.items()}, name
    for when in ("before", "4", "8", "after"):
        files = [folder / "generations" / f"safety-{when}.jsonl" for folder in (tmp_path / "ours", theirs.folder / "theirs")]
        assert files[0].read_text() == files[1].read_text()


class Logs(TrainerCallback):
    """What a trainer's loggers are given."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs, **_):
        self.seen.append((state.global_step, dict(logs)))


@pytest.mark.parametrize("kind", [*PLAIN.values(), AsFTTrainer, SafeSFTTrainer])
def test_training_is_the_same_without(run, kind):
    """Weights with dropout, to the last bit, and all that the trainer itself logs."""
    holds = {"anchors": [Shrinkage()]} if issubclass(kind, AsFTTrainer) else {}
    found = []
    for scored in (False, True):
        logs = Logs()
        trainer = run.trainer(kind, callbacks=[logs], **holds)
        if scored:
            trainer.add_callback(TrainerScoring(trainer, *scorers(run.folder, every_n_steps=1, every_n_epochs=1)))
        trainer.train()
        own = [(step, log) for step, log in logs.seen if not any("/" in name for name in log) and "loss" in log]
        found.append((weights_of(trainer.model), own))
        assert trainer.model.training
    assert difference(found[0][0], found[1][0]) == 0.0
    assert found[0][1] == found[1][1]
    assert len(logs.seen) == 8 + 1 + 3 * (1 + 8 + 2 + 1)


@pytest.mark.parametrize(
    ("every_n_epochs", "max_steps", "expected"), [(2, 16, [8, 16]), (1, 6, [4, 6]), (2, 6, [6]), (2, 2, [])]
)
def test_when_it_is_scored(run, every_n_epochs, max_steps, expected):
    """An epoch has 4 steps; one that is broken off counts, as in Lightning."""
    when = {"every_n_steps": None, "every_n_epochs": every_n_epochs, "at_start": False, "at_end": False}
    trainer = run.trainer(Trainer, run.arguments(Trainer, max_steps=max_steps))
    trainer.add_callback(TrainerScoring(trainer, *scorers(run.folder, **when)))
    trainer.train()
    assert list(scores_in(trainer)) == expected


def test_the_trainers_own_loggers_have_the_scores(run, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(run.folder / "events"))
    trainer = run.trainer(AsFTTrainer, run.arguments(AsFTTrainer, report_to=["tensorboard"]), anchors=[Shrinkage()])
    trainer.add_callback(TrainerScoring(trainer, *scorers(run.folder)))
    trainer.train()
    events = EventAccumulator(str(run.folder / "events")).Reload()
    scores = {event.step: event.value for event in events.Scalars("train/safety/harmful_score")}
    assert scores == pytest.approx({step: logs[-3]["safety/harmful_score"] for step, logs in scores_in(trainer).items()})
    assert [event.step for event in events.Scalars("train/penalty")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_model_that_is_made_anew_is_what_is_scored(run):
    found = []
    for model in ({"model": run.model()}, {"model": None, "model_init": run.model}):
        trainer = run.trainer(Trainer, run.arguments(Trainer, learning_rate=1e-2), **model)
        trainer.add_callback(TrainerScoring(trainer, *scorers(run.folder)))
        trainer.train()
        found.append((run.folder / "theirs" / "generations" / "safety-after.jsonl").read_text())
    before = (run.folder / "theirs" / "generations" / "safety-before.jsonl").read_text()
    assert found[0] == found[1] != before


def test_a_judge_that_fails_on_the_way_does_not_end_the_training(run):
    calls = []

    def moody(prompts, answers):
        calls.append(len(answers))
        if len(calls) == 2:
            raise OSError("out of credit")
        return by_letters(prompts, answers)

    trainer = run.trainer(Trainer)
    scorer = SafetyEvaluation(tiny.unsafe_prompts(run.folder), judge=moody, every_n_steps=4, max_new_tokens=2)
    trainer.add_callback(TrainerScoring(trainer, scorer))
    with pytest.warns(UserWarning, match=r"safety: judge failed \(OSError: out of credit\).*training goes on"):
        trainer.train()
    has_score = {step: ["safety/harmful_score" in log for log in logs] for step, logs in scores_in(trainer).items()}
    assert has_score == {0: [True], 8: [True, True]}
    written = (run.folder / "theirs" / "generations" / "safety-4.jsonl").read_text().splitlines()
    assert "out of credit" in json.loads(written[0])["problem"]


def test_a_judge_that_fails_before_training(run):
    def blank(prompts, answers):
        return [Verdict(None, problem="no key") for _ in answers]

    trainer = run.trainer(Trainer)
    trainer.add_callback(TrainerScoring(trainer, SafetyEvaluation(tiny.unsafe_prompts(run.folder), judge=blank)))
    with pytest.raises(ConfigurationError, match=r"none of 4 answers could be scored: no key"):
        trainer.train()


def test_prompts_that_the_model_is_held_by_are_not_scored(run):
    unsafe = tiny.unsafe_prompts(run.folder)
    answers = Answers(tiny.unsafe_prompts(run.folder, first=10, name="held"), harmless=unsafe, max_new_tokens=2)
    trainer = run.trainer(AsFTTrainer, answers=answers)
    with pytest.raises(DataError, match=r"must not be those that an anchor was built from, and 4 like"):
        TrainerScoring(trainer, SafetyEvaluation(unsafe))
    with pytest.raises(DataError, match=r"must not be those whose answers are held"):
        TrainerScoring(trainer, RefusalEvaluation(unsafe))
    trainer = run.trainer(AsFTTrainer, anchors=[Activation(prompts=unsafe)])
    with pytest.raises(DataError, match=r"must not be those that an anchor was built from"):
        TrainerScoring(trainer, SafetyEvaluation(unsafe))


def test_scorers_that_cannot_be(run):
    trainer = run.trainer(Trainer)
    unsafe = tiny.unsafe_prompts(run.folder)
    with pytest.raises(ConfigurationError, match=r"needs a scorer or more, each with a name of its own, got none"):
        TrainerScoring(trainer)
    with pytest.raises(ConfigurationError, match=r"got safety, safety. Set `name`"):
        TrainerScoring(trainer, SafetyEvaluation(unsafe), SafetyEvaluation(unsafe))
    trainer = run.trainer(Trainer, processing_class=None)
    with pytest.raises(ConfigurationError, match=r"scoring asks the model, and needs the trainer's processing_class"):
        TrainerScoring(trainer, SafetyEvaluation(unsafe))
