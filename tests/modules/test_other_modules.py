"""UpdatePenalty in a module that is not ours, in the two lines that the docs show."""

import torch
from kit import tiny
from lightning.pytorch import LightningModule
from peft import LoraConfig, get_peft_model

from asft_lightning import Gram, UpdatePenalty, build_anchors


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
