"""Checkpoints of trainers that hold their model: a run goes on held as it began, or does not."""

import json

import pytest
from kit import tiny
from kit.trainers import PLAIN, Run, SafeSFTTrainer, difference, weights_of

from asft_lightning import Answers, ConfigurationError, Shrinkage
from asft_lightning.integrations import AsFTTrainer

EVERY_KIND = pytest.mark.parametrize("kind", [AsFTTrainer, SafeSFTTrainer])


@pytest.fixture
def run(pretrained, tmp_path):
    return Run(pretrained, tmp_path, lora_dropout=0.2)


def held(folder, **settings):
    answers = Answers(tiny.unsafe_prompts(folder), **{"max_new_tokens": 4, "budget": 1e-5, **settings})
    return {"anchors": [Shrinkage()], "answers": answers}


def interrupted(run, kind, args=None, **holds):
    """Arguments of a run that goes on, and the checkpoint it goes on from."""
    args = args or run.arguments(kind, save_strategy="steps", save_steps=3)
    trainer = run.trainer(kind, args, **holds)
    trainer.train()
    return args, run.folder / "theirs" / "checkpoint-3", trainer


@EVERY_KIND
def test_a_resumed_run_is_the_same_run(run, kind):
    """Dropout, which answers are compared, and the weight that their budget moves."""
    holds = held(run.folder)
    args, checkpoint, whole = interrupted(run, kind, **holds)
    again = run.trainer(kind, args, **holds)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert difference(weights_of(whole.model), weights_of(again.model)) == 0.0
    steps, others = (
        [(log["step"], log["answer_weight"], log["penalty"]) for log in trainer.state.log_history if "loss" in log]
        for trainer in (whole, again)
    )
    assert steps == others and len({weight for _, weight, _ in steps}) == 8


@pytest.mark.parametrize(
    ("change", "others"),
    [
        ({"anchors": [Shrinkage(weight=2.0)]}, "anchors"),
        ({"anchors": []}, "anchors"),
        ({"answers": None}, "answers and budget of answers"),
        ({"answers": {"num_prompts": 2}}, "answers"),
        ({"answers": {"budget": None}}, "budget of answers"),
    ],
    ids=["other anchors", "no anchors", "no answers", "other answers", "no budget"],
)
def test_a_run_goes_on_held_as_it_began(run, change, others):
    holds = held(run.folder)
    args, checkpoint, _ = interrupted(run, AsFTTrainer, **holds)
    if change.get("answers"):
        change = {"answers": held(run.folder, **change["answers"])["answers"]}
    again = run.trainer(AsFTTrainer, args, **holds | change)
    with pytest.raises(ConfigurationError, match=rf"checkpoint-3 was written under other {others}, or none"):
        again.train(resume_from_checkpoint=str(checkpoint))


@EVERY_KIND
def test_a_checkpoint_of_a_run_that_was_not_held(run, kind):
    args, checkpoint, _ = interrupted(run, PLAIN[kind])
    with pytest.raises(ConfigurationError, match=r"there is no .*protection.json: its run was not held"):
        run.trainer(kind, args, **held(run.folder)).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_the_model_alone(run):
    args = run.arguments(AsFTTrainer, save_strategy="steps", save_steps=3, save_only_model=True)
    args, checkpoint, _ = interrupted(run, AsFTTrainer, args, **held(run.folder))
    with pytest.raises(ConfigurationError, match=r"or saved its model alone"):
        run.trainer(AsFTTrainer, args, **held(run.folder)).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"anchors": 1}', "damaged budget"])
def test_a_damaged_checkpoint(run, content):
    holds = held(run.folder)
    args, checkpoint, _ = interrupted(run, AsFTTrainer, **holds)
    file = checkpoint / "protection.json"
    if content == "damaged budget":
        content = json.dumps(json.loads(file.read_text()) | {"answer_budget": {"mean": "x"}})
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"protection.json cannot be read as what held a run"):
        run.trainer(AsFTTrainer, args, **holds).train(resume_from_checkpoint=str(checkpoint))
