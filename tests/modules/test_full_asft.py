"""Full fine-tuning with a real Trainer: what it trains, what protects it, and what it writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kit import models, tiny
from kit.tiny import fine_tuner, logged_run, tiny_data, tiny_trainer, trained_weights, unsafe_prompts
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from asft_lightning import (
    Activation,
    AdapterCheckpoint,
    AsFT,
    DataError,
    FullAsFT,
    FullFineTuner,
    Gram,
    Harmful,
    SafetyEvaluation,
    Shrinkage,
    Subspace,
)

KINDS = [FullFineTuner, FullAsFT]


def fit(module, pair, folder, *callbacks, ckpt_path=None, **settings):
    trainer = tiny_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4), ckpt_path=ckpt_path)
    return trainer


def aligned_weights():
    return models.tiny_model("chat", 1).state_dict()


def dense_shrinkage(module):
    """Σ ‖ΔW‖²_F in float64."""
    moved = trained_weights(module).items()
    return float(sum((w.double() - aligned_weights()[name.removeprefix("model.")]).square().sum() for name, w in moved))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_by_its_targets_alone(pretrained, tmp_path, kind):
    module, file = fine_tuner(kind, pretrained), Path(pretrained.aligned) / "model.safetensors"
    content = file.read_bytes()
    losses = [row["train/task_loss"] for row in logged_run(module, pretrained, tmp_path, max_epochs=8)]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])

    layers = [f"layers.{i}.self_attn.{name}.weight" for i in range(2) for name in ("q_proj", "v_proj")]
    assert sorted(trained_weights(module)) == [f"model.model.{name}" for name in layers]
    state = module.model.state_dict()
    changed = {name for name, value in aligned_weights().items() if not torch.equal(state[name], value)}
    assert changed == {f"model.{name}" for name in layers}
    assert file.read_bytes() == content


def test_by_default_all_linear_layers_but_the_head_are_trained(pretrained):
    module = FullAsFT(pretrained)
    module.configure_model()
    expected = [n for n, m in models.tiny_model("chat").named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert sorted(trained_weights(module)) == sorted(f"model.{name}.weight" for name in expected)
    assert module.trained_layers() == list(module.build_anchors().shapes) == expected


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_logged_penalty_is_that_of_the_weights(pretrained, tmp_path, precision):
    """What is trained, and the penalty, is float32 or wider under every precision that is let in."""
    module = fine_tuner(FullAsFT, replace(pretrained, dtype="bfloat16"), anchors=[Shrinkage()], lambda_reg=3.0)
    steps = logged_run(module, pretrained, tmp_path, precision=precision, max_epochs=2)
    assert [steps[0]["train/penalty"], steps[0]["train/lambda"]] == [0.0, 3.0]
    assert all(row["train/penalty"] > 0 for row in steps[1:])
    exact = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in module.parameters()} == {module.penalty().dtype} == {exact}
    assert {group.aligned.dtype for group in module.penalty.groups} == {torch.bfloat16}
    assert all(row["train/penalty_ratio"] == pytest.approx(3 * row["train/penalty"] / row["train/task_loss"], rel=1e-5)
               for row in steps)  # fmt: skip


def test_stronger_penalty_smaller_update(pretrained, tmp_path):
    sizes = []
    for strength in (0.0, 0.1, 10.0):
        module = fine_tuner(FullAsFT, pretrained, lambda_reg=strength, anchors=[Shrinkage()])
        if strength == 0:
            with pytest.warns(UserWarning, match="this run trains without protection"):
                fit(module, pretrained, tmp_path / str(strength), max_epochs=3)
        else:
            fit(module, pretrained, tmp_path / str(strength), max_epochs=3)
        sizes.append(dense_shrinkage(module))
        assert module.penalty().item() == pytest.approx(sizes[-1], rel=1e-5)
    assert sizes[0] > 1.1 * sizes[1] > 1.1 * 1.1 * sizes[2]


class PenaltyAlone(FullAsFT):
    """A task without a gradient: what the optimizer sees is λ's share alone."""

    def task_loss(self, batch):
        return super().task_loss(batch) * 0

    def on_before_optimizer_step(self, optimizer):
        self.seen = [p.grad.clone() for p in self.trainable_parameters()]


def test_penalty_gradient_does_not_depend_on_accumulation(pretrained, tmp_path):
    seen = {}
    for batch_size, accumulate in ((8, 1), (2, 4)):
        module = fine_tuner(PenaltyAlone, pretrained, lambda_reg=3.0)
        module.configure_model()
        module.bind(module.build_anchors())
        torch.manual_seed(0)
        for parameter in module.trainable_parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        expected = torch.autograd.grad(3.0 * module.penalty(), module.trainable_parameters())
        trainer = tiny_trainer(tmp_path, accumulate_grad_batches=accumulate, max_steps=1)
        trainer.fit(module, tiny_data(pretrained, tmp_path, num_rows=8, batch_size=batch_size))
        torch.testing.assert_close(module.seen, list(expected), rtol=1e-5, atol=1e-7)
        seen[accumulate] = module.seen
    assert max(float(gradient.abs().max()) for gradient in seen[1]) > 1e-2


ANCHORS = {
    "Gram": lambda folder, pair: Gram(),
    "Subspace": lambda folder, pair: Subspace(num_directions=3),
    "Harmful": lambda folder, pair: Harmful(adapter=tiny.write_adapter(folder / "harmful", pair)),
    "Activation": lambda folder, pair: Activation(prompts=unsafe_prompts(folder)),
    "Activation on both sides": lambda folder, pair: Activation(prompts=unsafe_prompts(folder), sides="both"),
}


@pytest.mark.parametrize("anchor", ANCHORS)
def test_anchors_are_those_of_lora_on_the_same_layers(pretrained, tmp_path, anchor):
    module = fine_tuner(FullAsFT, pretrained, anchors=[ANCHORS[anchor](tmp_path, pretrained)])
    fit(module, pretrained, tmp_path, max_steps=2)
    of_lora = fine_tuner(AsFT, pretrained, anchors=module.anchors).build_anchors()
    assert module.anchor_set.sha256() == of_lora.sha256() == module.fingerprint()["anchors_sha256"]
    assert module.penalty() > 0
    again = fine_tuner(FullAsFT, pretrained, anchor_file=str(tmp_path / "anchors.safetensors"))
    assert again.build_anchors().sha256() == of_lora.sha256()


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_holds_what_was_trained(pretrained, tmp_path, kind):
    module = fine_tuner(kind, pretrained)
    fit(module, pretrained, tmp_path, ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == trained_weights(module).keys()
    assert all(torch.equal(saved[name], value) for name, value in trained_weights(module).items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [4, 6])
def test_resumed_run_equals_the_uninterrupted_one(pretrained, tmp_path, kind, at):
    """At the end of an epoch and within one. What was there before training is what ΔW is measured from, then too."""

    def run(name, checkpoint=None):
        torch.manual_seed(0)
        saver = ModelCheckpoint(tmp_path / name, every_n_train_steps=at, save_top_k=-1, filename="{step}")
        module = fine_tuner(kind, pretrained, lr_scheduler="linear")
        fit(module, pretrained, tmp_path / name, saver, ckpt_path=checkpoint, max_epochs=3, enable_checkpointing=True)
        return module

    whole, again = run("whole"), run("again", tmp_path / "whole" / f"step={at}.ckpt")
    assert all(torch.equal(value, trained_weights(again)[name]) for name, value in trained_weights(whole).items())
    if kind is FullAsFT:
        assert torch.equal(whole.penalty(), again.penalty())


@pytest.mark.parametrize("kind", KINDS)
def test_whole_model_is_written_for_transformers(pretrained, tmp_path, kind):
    module = fine_tuner(kind, pretrained)
    fit(module, pretrained, tmp_path, AdapterCheckpoint())
    ids = torch.arange(10, 30)[None]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, module.model.eval()(ids).logits)
    assert not (tmp_path / "adapter").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == module.tokenizer.chat_template
    assert module.template.end(module.tokenizer).token_id in loaded.generation_config.eos_token_id


def test_scoring_is_invisible_and_prompts_that_protect_are_not_scored(pretrained, tmp_path):
    """Before, on the way and after; with what no anchor has seen."""
    prompts = unsafe_prompts(tmp_path)
    ends = []
    for name, first in (("with", 10), ("without", None)):
        torch.manual_seed(0)
        module = fine_tuner(FullAsFT, pretrained, anchors=[Activation(prompts=prompts)])
        scored = None if first is None else unsafe_prompts(tmp_path, first=first, name="scored")
        scorers = [] if scored is None else [SafetyEvaluation(scored, max_new_tokens=4, every_n_steps=2)]
        fit(module, pretrained, tmp_path / name, *scorers, max_epochs=2)
        ends.append(trained_weights(module))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    with pytest.raises(DataError, match=r"must not be those that an anchor was built from, and 4 like 'how to open safe 0'"):
        fit(fine_tuner(FullAsFT, pretrained, anchors=[Activation(prompts=prompts)]), pretrained, tmp_path / "seen",
            SafetyEvaluation(prompts, max_new_tokens=4))  # fmt: skip
