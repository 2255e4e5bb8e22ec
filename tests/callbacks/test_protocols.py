"""What callbacks want of modules that are not ours: no more than they need, asked late, and said where it is absent."""

import pytest
import torch
from kit import tiny
from kit.models import tiny_model
from kit.tiny import LORA, tiny_data, tiny_trainer, unsafe_prompts
from lightning.pytorch import LightningModule
from peft import LoraConfig, get_peft_model

from asft_lightning import (
    Activation,
    AdapterCheckpoint,
    AdapterProjection,
    ConfigurationError,
    DataError,
    OffAnchorShrinkage,
    SafetyEvaluation,
    Shrinkage,
    Template,
    UpdatePenalty,
    build_anchors,
)
from asft_lightning.anchors import Probe


class Foreign(LightningModule):
    """Makes its model, tokenizer and template where Lightning says, after callbacks are set up."""

    def __init__(self, anchors=()):
        super().__init__()
        self.anchors = anchors

    def configure_model(self):
        self.model = get_peft_model(tiny_model("chat", 1), LoraConfig(**LORA, task_type="CAUSAL_LM"))
        self.tokenizer, self.template = tiny.tiny_tokenizer(), Template()
        if self.anchors:
            probe = Probe(tiny_model("chat", 1), self.tokenizer)
            built = build_anchors(self.model, tiny_model("chat", 1), None, self.anchors, probe=probe, progress=False)
            self.safety_term = UpdatePenalty(self.model, built)

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


class Bare(Foreign):
    """Without a tokenizer or a template."""

    def configure_model(self):
        super().configure_model()
        del self.tokenizer, self.template


def test_module_that_makes_its_model_late_is_scored_and_written(pretrained, tmp_path):
    callbacks = [SafetyEvaluation(unsafe_prompts(tmp_path), max_new_tokens=2), AdapterCheckpoint()]
    tiny_trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(Foreign(), tiny_data(pretrained, tmp_path))
    assert (tmp_path / "generations" / "safety-after.jsonl").is_file()
    assert (tmp_path / "adapter" / "tokenizer.json").is_file()


def test_what_needs_only_the_model_asks_for_no_more(pretrained, tmp_path):
    projection = AdapterProjection(OffAnchorShrinkage(1.0, Shrinkage()))
    module = Bare()
    module.pretrained = pretrained
    tiny_trainer(tmp_path, callbacks=[projection], max_steps=1).fit(module, tiny_data(pretrained, tmp_path))
    assert (tmp_path / "projection.json").is_file()


@pytest.mark.parametrize("callback", [lambda _: AdapterCheckpoint(), SafetyEvaluation])
def test_what_is_absent_is_named_before_a_step(pretrained, tmp_path, callback):
    module = Bare()
    trainer = tiny_trainer(tmp_path, callbacks=[callback(unsafe_prompts(tmp_path))], max_steps=1)
    with pytest.raises(
        ConfigurationError, match=r"needs a module with `tokenizer`, the model's tokenizer, and Bare has none"
    ):
        trainer.fit(module, tiny_data(pretrained, tmp_path))
    assert trainer.global_step == 0


def test_prompts_of_the_anchors_are_known_whatever_the_penalty_is_called(pretrained, tmp_path):
    prompts = unsafe_prompts(tmp_path)
    callbacks = [SafetyEvaluation(prompts, max_new_tokens=2)]
    module = Foreign([Activation(prompts=prompts, num_prompts=2)])
    with pytest.raises(
        DataError, match="must not be those that an anchor was built from, and 2 like 'how to open safe 0' are"
    ):
        tiny_trainer(tmp_path, callbacks=callbacks).fit(module, tiny_data(pretrained, tmp_path))


def test_that_nothing_can_be_checked_is_said(pretrained, tmp_path):
    """A loader tells nobody which of its prompts are unsafe."""
    data = tiny_data(pretrained, tmp_path)
    data.setup()
    callbacks = [SafetyEvaluation(unsafe_prompts(tmp_path), max_new_tokens=2)]
    with pytest.warns(UserWarning, match="cannot check that no scored prompt is trained on, for there is no DataModule"):
        tiny_trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(Foreign(), data.train_dataloader())
