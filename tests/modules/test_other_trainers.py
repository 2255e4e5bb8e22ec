"""UpdatePenalty in modules and trainers that are not ours, in the two lines that the docs show."""

import pytest
import torch
from kit import tiny
from lightning.pytorch import LightningModule
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from asft_lightning import Gram, Shrinkage, UpdatePenalty, build_anchors


def adapted(pair):
    torch.manual_seed(0)
    return get_peft_model(pair.load_model(), LoraConfig(**tiny.LORA, task_type="CAUSAL_LM"))


def size_of_update(model):
    weights = {name: p.detach().double() for name, p in model.named_parameters() if p.requires_grad}
    products = [b @ weights[name.replace("lora_B", "lora_A")] for name, b in weights.items() if "lora_B" in name]
    return float(sum((product**2).sum() for product in products))


class Users(LightningModule):
    """Another project's module, with the two lines."""

    def __init__(self, pair, strength):
        super().__init__()
        self.strength = strength
        self.model = adapted(pair)
        anchors = build_anchors(self.model, aligned=pair.aligned, base=pair.base, anchors=[Gram()], progress=False)
        self.penalty = UpdatePenalty(self.model, anchors)

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        return loss + self.strength * self.penalty()

    def configure_optimizers(self):
        return tiny.fast_adamw([p for p in self.parameters() if p.requires_grad])


def test_users_lightning_module(pretrained, tmp_path):
    sizes = []
    for strength in (0.0, 100.0):
        module = Users(pretrained, strength)
        tiny.tiny_trainer(tmp_path, max_epochs=3).fit(module, tiny.tiny_data(pretrained, tmp_path, batch_size=4))
        sizes.append(size_of_update(module.model))
    assert 0 < sizes[1] < sizes[0] / 2


class Protected(Trainer):
    """A transformers.Trainer with the two lines."""

    strength = 0.0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss + self.strength * self.penalty()


def rows_of(data):
    data.setup()
    (batch,) = list(data.train_dataloader())
    return [{key: value[i] for key, value in batch.items()} for i in range(len(batch["labels"]))]


@pytest.fixture
def trained(pretrained, tmp_path):
    """A run of a transformers.Trainer at this λ, batch size and accumulation, and its model."""
    pytest.importorskip("accelerate")
    rows = rows_of(tiny.tiny_data(pretrained, tmp_path, batch_size=16))

    def train(strength, batch_size, accumulate, max_steps, anchors):
        model = adapted(pretrained)
        arguments = TrainingArguments(
            str(tmp_path / "hf"), per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulate,
            max_steps=max_steps, learning_rate=1e-2, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
            logging_strategy="no", max_grad_norm=0.0,
        )  # fmt: skip
        trainer = Protected(model=model, args=arguments, train_dataset=rows)
        anchors = build_anchors(model, pretrained.aligned, pretrained.base, anchors, progress=False)
        trainer.penalty, trainer.strength = UpdatePenalty(model, anchors), strength
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
        return model

    return train


def test_transformers_trainer(trained):
    free, held = (size_of_update(trained(strength, 4, 1, 12, [Gram()])) for strength in (0.0, 100.0))
    assert 0 < held < free / 2


def test_transformers_trainer_means_the_same_lambda_at_any_accumulation(trained):
    """16 rows of one batch, or of 4 of 4, over 6 steps: the answers' lengths differ a little, λ does not."""
    whole, parts = (size_of_update(trained(30.0, size, n, 6, [Shrinkage()])) for size, n in ((16, 1), (4, 4)))
    naive = size_of_update(trained(120.0, 16, 1, 6, [Shrinkage()]))
    assert parts == pytest.approx(whole, rel=0.05)
    assert abs(naive / whole - 1) > 0.2
