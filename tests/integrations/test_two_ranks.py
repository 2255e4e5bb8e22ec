"""A model that is held in a trainer on two ranks: the same weights as on one, and prompts that are spread over both."""

import os

import pytest
from accelerate.state import AcceleratorState, GradientState
from kit import tiny
from kit.ranks import on_ranks, sharded
from kit.trainers import Run, SafeSFTTrainer, difference, weights_of

from asft_lightning import Answers, ConfigurationError, Gram, SafetyEvaluation, Verdict
from asft_lightning.integrations import AsFTTrainer, TrainerScoring


def as_launched(rank):
    """What ``accelerate launch`` and ``torchrun`` tell a process; nothing is left of the test's own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)


def holds(folder):
    answers = Answers(tiny.unsafe_prompts(folder, 3, 20, "held"), max_new_tokens=4, budget=1e-5)
    return {"anchors": [Gram()], "lambda_reg": 5.0, "answers": answers}


def by_letters(prompts, answers):
    return [Verdict(sum(map(ord, answer)) % 2 == 1) for answer in answers]


def trained(rank, kind, run):
    """The weights and the scores of a rank."""
    as_launched(rank)
    args = run.arguments(kind, 2, gradient_accumulation_steps=2, ddp_backend="gloo")
    assert args.world_size == 2
    trainer = run.trainer(kind, args, base=run.pair.base, **holds(run.folder))
    scorer = SafetyEvaluation(tiny.unsafe_prompts(run.folder, 5), judge=by_letters, max_new_tokens=6)
    trainer.add_callback(TrainerScoring(trainer, scorer))
    trainer.train()
    scores = [log["safety/harmful_score"] for log in trainer.state.log_history if "safety/harmful_score" in log]
    return weights_of(trainer.model), scores


@pytest.mark.parametrize("kind", [AsFTTrainer, SafeSFTTrainer])
def test_two_ranks_are_one(pretrained, tmp_path, kind):
    """2 ranks of 2 rows at a time, in 2 pieces, and 8 rows at once."""
    run = Run(pretrained, tmp_path)
    found = on_ranks(trained, 2, tmp_path, kind, run)
    assert difference(found[0][0], found[1][0]) == 0.0
    trainer = run.trainer(kind, run.arguments(kind, 8), base=run.pair.base, **holds(tmp_path))
    scorer = SafetyEvaluation(tiny.unsafe_prompts(tmp_path, 5), judge=by_letters, max_new_tokens=6)
    trainer.add_callback(TrainerScoring(trainer, scorer))
    trainer.train()
    assert difference(found[0][0], weights_of(trainer.model)) < 1e-6
    scores = [log["safety/harmful_score"] for log in trainer.state.log_history if "safety/harmful_score" in log]
    assert found[0][1] == found[1][1] == scores


def refusal(rank, run):
    """What is said of a model that is sharded."""
    as_launched(rank)
    args = run.arguments(AsFTTrainer, ddp_backend="gloo")
    with pytest.raises(ConfigurationError) as raised:
        run.trainer(AsFTTrainer, args, model=sharded(run.model()), base=run.pair.base, anchors=[Gram()])
    return str(raised.value)


def test_a_sharded_model_is_refused(pretrained, tmp_path):
    for message in on_ranks(refusal, 2, tmp_path, Run(pretrained, tmp_path)):
        assert message.startswith("a model is held on one device or under DDP here, and this one would be sharded (by its")
