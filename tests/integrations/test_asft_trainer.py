"""A model that is held in the trainers of Transformers and TRL: as in a run of our own, whatever the trainer does."""

import pytest
import torch
from kit import tiny
from kit.trainers import PLAIN, Run, SafeSFTTrainer, difference, size_of_update, weights_of

from asft_lightning import Activation, Answers, AsFT, Gram, Shrinkage, build_anchors
from asft_lightning.integrations import AsFTTrainer

KINDS = [AsFTTrainer, SafeSFTTrainer]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def run(pretrained, tmp_path):
    return Run(pretrained, tmp_path)


@pytest.fixture
def answers(tmp_path):
    return Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=4, weight=5.0)


@pytest.fixture
def holds(answers, tmp_path):
    """{what holds: settings of our module and of their trainers alike}."""
    prompts = tiny.unsafe_prompts(tmp_path, first=20, name="probed")
    activation = Activation(prompts=prompts)
    return {
        "gram": {"anchors": [Gram()], "lambda_reg": 5.0},
        "activation": {"anchors": [activation], "lambda_reg": 0.1, "scale_update": True},
        "budget": {"anchors": [activation, Shrinkage()], "drift_budget": 0.01},
        "answers": {"anchors": [], "answers": answers},
        "moving answers": {"anchors": [], "answers": Answers(answers.prompts, max_new_tokens=4, budget=1e-5)},
        "both": {"anchors": [Gram()], "lambda_reg": 5.0, "answers": answers},
    }


@EVERY_KIND
@pytest.mark.parametrize("hold", ["gram", "activation", "budget", "answers", "moving answers", "both"])
def test_the_weights_are_those_of_our_own_module(run, holds, kind, hold):
    ours = run.ours(AsFT, batch_size=4, **holds[hold])
    theirs = run.theirs(kind, base=run.pair.base, **holds[hold])
    free = run.theirs(PLAIN[kind])
    assert difference(ours, theirs) < 1e-6
    assert difference(ours, free) > 1e-4


@EVERY_KIND
@pytest.mark.parametrize("pieces", [2, 4, 3])
def test_a_step_in_pieces_is_the_same_step(run, holds, kind, pieces):
    """8 rows at once, or in 2, 4 or 3 micro-batches of which an epoch's last step has fewer: λ counts once a step."""
    args = run.arguments(kind, 8 // pieces, gradient_accumulation_steps=pieces)
    theirs = run.theirs(kind, args, base=run.pair.base, **holds["both"])
    size = 8 // pieces * pieces
    assert difference(run.ours(AsFT, batch_size=size, **holds["both"]), theirs) < 1e-6


@pytest.mark.parametrize("scaled", [True, False], ids=["by tokens", "by micro-batches"])
def test_how_a_trainer_divides_the_loss_is_the_same_to_what_holds(run, scaled):
    """A task without a gradient: what holds is all there is, from an adapter that has been trained."""
    sgd = {"optim": "sgd", "learning_rate": 1e-2}
    whole, pieces = [], []
    for found, size, count in ((whole, 8, 1), (pieces, 2, 4)):
        args = run.arguments(AsFTTrainer, size, gradient_accumulation_steps=count, **sgd)
        model = trained(run.model())
        trainer = run.trainer(AsFTTrainer, args, model=model, anchors=[Shrinkage()], lambda_reg=1.0, resumed=True)
        trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum() * 0.0
        trainer.model_accepts_loss_kwargs = trainer.loss_is_scaled_for_ga = scaled
        trainer.train()
        found.append(size_of_update(weights_of(trainer.model)))
    assert whole == pytest.approx(pieces, rel=1e-6)
    assert whole[0] < 0.99 * size_of_update(weights_of(trained(run.model())))


def trained(model):
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@EVERY_KIND
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradient_checkpointing_changes_nothing(run, holds, kind, precision):
    found = [
        run.theirs(
            kind,
            run.arguments(kind, bf16=precision == "bf16", gradient_checkpointing=checkpointing),
            base=run.pair.base,
            **holds["both"],
        )
        for checkpointing in (False, True)
    ]
    assert difference(*found) < 1e-6


@EVERY_KIND
def test_in_bf16_what_holds_is_float32(run, kind):
    """With gradient checkpointing, which is SFTTrainer's default, as bf16 is."""
    args = run.arguments(kind, bf16=True, gradient_checkpointing=True, learning_rate=1e-2, num_train_epochs=3)
    sizes = []
    for strength in (1e-9, 100.0):
        trainer = run.trainer(kind, args, anchors=[Shrinkage()], lambda_reg=strength)
        trainer.train()
        sizes.append(size_of_update(weights_of(trainer.model)))
        with trainer.accelerator.autocast():
            assert float(trainer.protection.parts[0]().detach()) == pytest.approx(sizes[-1], rel=1e-6)
    assert 0 < sizes[1] < sizes[0] / 2


def test_what_holds_is_scaled_as_the_task_is(run, holds):
    """As under fp16, which needs a GPU: a scaler's steps are the same steps, though its scale doubles with each."""
    found, scaler = [], torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    for used in (None, scaler):
        args = run.arguments(AsFTTrainer, gradient_accumulation_steps=2)
        trainer = run.trainer(AsFTTrainer, args, base=run.pair.base, **holds["both"])
        trainer.accelerator.scaler = used
        trainer.train()
        found.append(weights_of(trainer.model))
    assert difference(*found) < 1e-6 and scaler.get_scale() == 2.0**14


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing_factor": 0.1},
        pytest.param({"torch_compile": True, "torch_compile_backend": "eager"}, marks=pytest.mark.slow),
        {"neftune_noise_alpha": 5.0},
    ],
    ids=["label smoothing", "compiled", "noise"],
)
def test_a_loss_or_a_model_that_a_trainer_changes_is_held_as_well(run, settings):
    args = run.arguments(AsFTTrainer, learning_rate=1e-2, num_train_epochs=3, **settings)
    free, held = (size_of_update(run.theirs(AsFTTrainer, args, anchors=[Shrinkage()], lambda_reg=s)) for s in (1e-9, 100.0))
    assert 0 < held < free / 2


@EVERY_KIND
def test_what_holds_is_logged_beside_the_task_loss(run, answers, kind):
    trainer = run.trainer(kind, anchors=[Shrinkage()], lambda_reg=2.0, answers=answers)
    trainer.train()
    steps = [log for log in trainer.state.log_history if "loss" in log]
    plain = run.trainer(PLAIN[kind])
    plain.train()
    assert [step["lambda"] for step in steps] == [2.0] * 8
    assert steps[0]["penalty"] == 0.0 and all(step["penalty"] > 0 for step in steps[1:])
    assert steps[0]["answer_divergence"] == pytest.approx(0.0, abs=1e-6)
    assert steps[0]["loss"] == plain.state.log_history[0]["loss"]


def test_answers_are_held_in_train_mode_after_an_evaluation(run, answers):
    args, modes = run.arguments(AsFTTrainer, eval_strategy="steps", eval_steps=1), []
    trainer = run.trainer(AsFTTrainer, args, answers=answers, eval_dataset=run.rows)
    trainer.model.register_forward_pre_hook(
        lambda model, args, inputs: modes.append(("labels" in inputs, model.training)), with_kwargs=True
    )
    trainer.train()
    assert modes.count((False, True)) == 8 and modes.count((True, True)) == 8 and (False, False) not in modes
    assert not any("penalty" in log or "answer_weight" in log for log in trainer.state.log_history if "eval_loss" in log)


def test_anchors_that_were_built_before(run):
    anchors = build_anchors(run.model(), run.pair.aligned, run.pair.base, [Gram()], progress=False)
    built = run.theirs(AsFTTrainer, anchors=anchors, lambda_reg=5.0)
    assert difference(built, run.theirs(AsFTTrainer, anchors=[Gram()], base=run.pair.base, lambda_reg=5.0)) < 1e-6


def test_training_again_begins_anew(run):
    """Of one step each: the second is held as the first."""
    args = run.arguments(AsFTTrainer, max_steps=1, num_train_epochs=1, learning_rate=1e-2)
    trainer = run.trainer(AsFTTrainer, args, anchors=[Shrinkage()], lambda_reg=1.0)
    sizes = list[float]()
    for _ in range(2):
        trainer.train()
        sizes += [log["penalty"] for log in trainer.state.log_history if "penalty" in log]
    first, second = sizes
    assert first == 0.0 < second
