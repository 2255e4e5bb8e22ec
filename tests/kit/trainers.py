"""Trainers of Transformers and TRL on the tiny pair, and a run of our own on the same batches."""

from copy import deepcopy

import torch
from datasets import Dataset
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, SequentialSampler
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from asft_lightning import LoRAFineTuner
from asft_lightning.integrations import AsFTTrainer
from kit import tiny
from kit.tiny import LORA

RATE = 1e-3


class SafeSFTTrainer(AsFTTrainer, SFTTrainer):
    """As docs/integrations.md has it."""


PLAIN = {AsFTTrainer: Trainer, SafeSFTTrainer: SFTTrainer}
"""{a trainer that holds its model: what it is made of}."""


class Batches(LightningDataModule):
    """Some examples in their order, none of them unsafe."""

    unsafe_prompts = frozenset()

    def __init__(self, examples, batch_size, collate):
        super().__init__()
        self.examples, self.batch_size, self.collate = examples, batch_size, collate

    def train_dataloader(self):
        return DataLoader(self.examples, self.batch_size, collate_fn=self.collate)


class Run:
    """Runs on the same rows from the same adapter.

    Args:
        pair: The checkpoints.
        folder: Where they are written.
        lora: Settings that differ from the usual ones.
    """

    def __init__(self, pair, folder, **lora):
        self.pair, self.folder, self.lora = pair, folder, LORA | lora
        data = tiny.tiny_data(pair, folder)
        data.setup()
        self.examples, self.collate = data.mixture.train, data._collator()
        self.rows = [{"input_ids": e.input_ids, "labels": e.labels} for e in self.examples]
        module = LoRAFineTuner(pair, self.lora)
        torch.manual_seed(0)
        module.configure_model()
        self.start = module.model

    def model(self):
        return deepcopy(self.start)

    def batches(self, batch_size):
        """The rows for a run of our own."""
        return Batches(self.examples, batch_size, self.collate)

    def ours(self, kind, batch_size, epochs=2, **settings):
        """{name: weight} that a module of ours ends with."""
        adamw = lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.0)  # noqa: E731
        module = kind(self.pair, self.lora, optimizer=adamw, **settings)
        module.model = self.model()
        tiny.tiny_trainer(self.folder / "ours", max_epochs=epochs).fit(module, self.batches(batch_size))
        return weights_of(module.model)

    def arguments(self, kind, batch_size=4, **settings):
        """Those of a quiet run in float32 on the rows in their order."""
        usual = {
            "per_device_train_batch_size": batch_size, "num_train_epochs": 2, "learning_rate": RATE, "weight_decay": 0.0,
            "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "use_cpu": True,
            "report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "bf16": False,
            "gradient_checkpointing": False,
        }  # fmt: skip
        is_sft = issubclass(kind, SFTTrainer)
        return (SFTConfig if is_sft else TrainingArguments)(str(self.folder / "theirs"), **usual | settings)

    def trainer(self, kind, args=None, **settings):
        """A trainer of this kind; what holds its model is in the settings."""
        tokenizer = tiny.tiny_tokenizer()
        usual = {"model": self.model(), "args": args or self.arguments(kind), "processing_class": tokenizer}
        if issubclass(kind, SFTTrainer):
            usual["train_dataset"] = Dataset.from_list(self.rows)
        else:
            usual |= {"train_dataset": self.rows, "data_collator": DataCollatorForSeq2Seq(tokenizer)}
        trainer = kind(**usual | settings)
        trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
        return trainer

    def theirs(self, kind, args=None, **settings):
        """{name: weight} that a trainer of this kind ends with."""
        trainer = self.trainer(kind, args, **settings)
        trainer.train()
        return weights_of(trainer.model)


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def difference(some, others):
    """The greatest of any weight."""
    assert some.keys() == others.keys() and len(some)
    return max(float((some[name] - others[name]).abs().max()) for name in some)


def size_of_update(weights):
    """Σ ‖BA‖² over the layers, in float64."""
    of_b = {name: weight.double() for name, weight in weights.items() if "lora_B" in name}
    products = (b @ weights[name.replace("lora_B", "lora_A")].double() for name, b in of_b.items())
    return float(sum((product**2).sum() for product in products))
