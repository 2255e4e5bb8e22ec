"""What would leave a model unprotected ends in an error, when the trainer is made or when it begins."""

import pytest
from kit import tiny
from kit.trainers import Run, SafeSFTTrainer
from peft import LoraConfig
from transformers import Trainer, TrainerCallback
from trl import SFTTrainer

from asft_lightning import (
    AnchorError,
    Answers,
    ConfigurationError,
    Gram,
    RefusalEvaluation,
    Shrinkage,
    Source,
    TrainingError,
    UnpenalisedError,
    build_anchors,
)
from asft_lightning.integrations import AsFTTrainer, TrainerScoring

EVERY_KIND = pytest.mark.parametrize("kind", [AsFTTrainer, SafeSFTTrainer])


@pytest.fixture
def run(pretrained, tmp_path):
    return Run(pretrained, tmp_path)


@EVERY_KIND
def test_a_model_without_lora(run, kind):
    with pytest.raises(UnpenalisedError, match=r"needs a model with trainable LoRA layers, and LlamaForCausalLM has none"):
        run.trainer(kind, model=run.pair.load_model(), anchors=[Shrinkage()])


@EVERY_KIND
def test_anchors_of_other_layers(run, kind, pretrained, tmp_path):
    other = Run(pretrained, tmp_path, target_modules=["q_proj", "k_proj"]).model()
    anchors = build_anchors(other, anchors=[Shrinkage()], progress=False)
    with pytest.raises(UnpenalisedError, match=r"v_proj: anchors and trained LoRA layers must be the same modules"):
        run.trainer(kind, anchors=anchors)


def test_what_is_trained_beside(pretrained, tmp_path):
    run = Run(pretrained, tmp_path, modules_to_save=["norm"])
    with pytest.raises(UnpenalisedError, match=r"norm.* would be trained as well, unseen by the penalty"):
        run.trainer(AsFTTrainer, anchors=[Shrinkage()])
    run.trainer(AsFTTrainer, anchors=[Shrinkage()], allow_unpenalised=True).train()


@EVERY_KIND
def test_an_adapter_that_has_been_trained(run, kind):
    model = run.model()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    with pytest.raises(UnpenalisedError, match=r"the update B·A must be 0 at the start"):
        run.trainer(kind, model=model, anchors=[Shrinkage()])
    run.trainer(kind, model=model, anchors=[Shrinkage()], resumed=True).train()


@pytest.mark.parametrize(
    ("holds", "error", "message"),
    [
        ({}, ConfigurationError, r"needs something to hold it by, and got neither anchors nor answers"),
        ({"anchors": []}, ConfigurationError, r"needs something to hold it by, and got neither anchors nor answers"),
        ({"anchors": [Shrinkage()], "lambda_reg": -1.0}, ConfigurationError, r"lambda_reg must be a number ≥ 0, got -1.0"),
        ({"anchors": [Gram()]}, AnchorError, r"needs both checkpoints, and `base` is not given"),
        ({"anchors": [Shrinkage()], "drift_budget": 0.0}, ConfigurationError, r"drift_budget must be above 0"),
        ({"anchors": [Shrinkage()], "drift_budget": 0.3}, ConfigurationError, r"drift_budget limits a relative change"),
    ],
)
def test_settings_that_cannot_be(run, holds, error, message):
    with pytest.raises(error, match=message):
        run.trainer(AsFTTrainer, **holds)


def test_a_drift_budget_beside_answers_alone(run, tmp_path):
    answers = Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=2)
    with pytest.raises(ConfigurationError, match=r"drift_budget limits what one Activation anchor measures"):
        run.trainer(AsFTTrainer, answers=answers, drift_budget=0.3)


def test_the_mixin_behind_the_trainer(run):
    """SFTTrainer passes nothing on that it does not know: it is never a plain trainer by mistake."""

    class Behind(SFTTrainer, AsFTTrainer):
        pass

    with pytest.raises(ConfigurationError, match=r"got neither anchors nor answers"):
        run.trainer(Behind)


@pytest.mark.parametrize("optimizer", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_optimizers_without_a_step(run, optimizer):
    args = run.arguments(AsFTTrainer)
    args.optim = optimizer
    with pytest.raises(ConfigurationError, match=rf"{optimizer} has no step of its own. Set optim to adamw_torch"):
        run.trainer(AsFTTrainer, args, anchors=[Shrinkage()])


def test_a_model_that_is_made_later(run):
    with pytest.raises(ConfigurationError, match=r"model_init makes another one later. Give `model`"):
        run.trainer(AsFTTrainer, model=None, model_init=run.model, anchors=[Shrinkage()])


@pytest.mark.parametrize("how", ["fsdp", "deepspeed"])
def test_a_trainer_that_would_shard(run, how):
    """Without a GPU neither does; both say so by a flag."""

    class Sharding(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            setattr(self, f"is_{how}_enabled", True)

    class Safe(AsFTTrainer, Sharding):
        pass

    with pytest.raises(ConfigurationError, match=rf"held on one device .* would be sharded \(by {how}\). Leave that out"):
        run.trainer(Safe, anchors=[Shrinkage()])
    with pytest.raises(ConfigurationError, match=rf"scored on one device .* would be sharded \(by {how}\). Leave that out"):
        TrainerScoring(run.trainer(Sharding), RefusalEvaluation(Source("sandbox:instructions", rows="0:2")))


@EVERY_KIND
def test_what_changes_before_training(run, kind):
    trainer = run.trainer(kind, anchors=[Shrinkage()])
    trainer.model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(UnpenalisedError, match=r"embed_tokens.* would be trained as well"):
        trainer.train()
    trainer = run.trainer(kind, anchors=[Shrinkage()])
    trainer.model.add_adapter("second", LoraConfig(r=2, target_modules=["o_proj"]))
    trainer.model.set_adapter("second")
    with pytest.raises(UnpenalisedError, match=r"o_proj: anchors and trained LoRA layers must be the same modules"):
        trainer.train()
    trainer = run.trainer(kind, anchors=[Shrinkage()])
    trainer.model = run.model()
    with pytest.raises(UnpenalisedError, match=r"trainer.model is another one since. Make a new trainer"):
        trainer.train()


def test_a_step_that_is_not_held(run):
    class Own(AsFTTrainer):
        def train(self):
            handler = self.callback_handler
            handler.on_step_begin = lambda args, state, control: control
            super().train()

    with pytest.raises(UnpenalisedError, match=r"step 0 was not: Own does not call its callbacks' on_step_begin"):
        run.trainer(Own, anchors=[Shrinkage()]).train()


def test_a_tokenizer_that_cannot_ask(run, tmp_path):
    answers = Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=2)
    with pytest.raises(ConfigurationError, match=r"needs the trainer's processing_class to be a tokenizer, got NoneType"):
        run.trainer(AsFTTrainer, processing_class=None, answers=answers)
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ConfigurationError, match=r"has no pad token. Set tokenizer.pad_token"):
        run.trainer(AsFTTrainer, processing_class=tokenizer, data_collator=lambda rows: rows, answers=answers)


class Spoil(TrainerCallback):
    def on_optimizer_step(self, args, state, control, model, **_):
        next(p for name, p in model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))


def test_a_penalty_that_is_no_number(run):
    trainer = run.trainer(AsFTTrainer, anchors=[Shrinkage()], callbacks=[Spoil()])
    with pytest.raises(TrainingError, match=r"must be a finite number, and at step 2 penalty is nan"):
        trainer.train()


def test_no_protection_is_said(run):
    with pytest.warns(UserWarning, match=r"lambda_reg is 0: this run trains without protection"):
        run.trainer(AsFTTrainer, anchors=[Shrinkage()], lambda_reg=0.0)
