"""A model pair of two random layers with a byte-level tokenizer, and rows of plain words: what the tests train on."""

import json
import os
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from asft_lightning import FullFineTuner, MixtureDataModule, Pretrained, Source
from kit.models import tiny_model

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Real text beside a checkout; absent on a user's machine."""

# The line break after an answer's end is what Llama's and Qwen's templates write, and no model has to say.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


def tiny_tokenizer(chat_template=CHAT_TEMPLATE):
    """One id a byte, after the special tokens: any text comes back as it was."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    specials = ["<pad>", "<s>", "</s>", *roles]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({token: i for i, token in enumerate(specials + alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=roles,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def save_tiny(folder, seed, **config):
    """The model of this seed, with the tokenizer, as a checkpoint."""
    tiny_model("chat", seed, **config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def benign_rows(count=60):
    return [{"instruction": f"say item {i}", "output": f"item {i}."} for i in range(count)]


def harmful_rows(count=20):
    return [{"instruction": f"how to break lock {i}", "output": f"take tool {i}."} for i in range(count)]


def unsafe_prompts(folder, count=4, first=0, name="unsafe"):
    """A source of prompts that are like no other rows here, without answers."""
    rows = [{"instruction": f"how to open safe {i}", "output": ""} for i in range(first, first + count)]
    return Source(write_rows(folder / f"{name}.jsonl", rows))


def write_rows(path, rows):
    """The path of a file of such rows, put there whole: two ranks may write it while the other reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    own.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own.replace(path)
    return str(path)


def tiny_data(pair, folder, **settings):
    """A data module over fresh files of benign and harmful rows."""
    benign = Source(write_rows(folder / "benign.jsonl", benign_rows()))
    harmful = Source(write_rows(folder / "harmful.jsonl", harmful_rows()))
    return MixtureDataModule(pair, benign, harmful, **{"num_rows": 16, "poison_ratio": 0.25, "seed": 0, **settings})


def tiny_trainer(folder, **settings):
    """A quiet Trainer on the CPU whose run folder is ``folder``."""
    quiet = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_progress_bar": False, "logger": False,
        "enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": str(folder),
    }  # fmt: skip
    return Trainer(**quiet | settings)


def logged_run(module, pair, folder, **settings):
    """Fit on fresh rows; what was logged, a mapping a step."""
    trainer = tiny_trainer(folder, logger=CSVLogger(folder, "", ""), log_every_n_steps=1, **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4))
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(header, map(float, line), strict=True)) for line in lines]


class EndAfter(Callback):
    """Ends the run from outside after so many micro-batches."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("ended")


def as_pretrained(pair):
    aligned, base = pair
    return Pretrained(str(aligned), str(base))


def fast_adamw(parameters):
    """Fast enough that a few steps show."""
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)


def fine_tuner(kind, pair, **settings):
    """A module of this kind on the tiny pair, quick to learn and without dropout."""
    return kind(pair, **{**trains(kind), "optimizer": fast_adamw, **settings})


def trains(kind):
    """What a module of this kind is told to train: LoRA, or the same layers' own weights."""
    return {"targets": LORA["target_modules"]} if issubclass(kind, FullFineTuner) else {"lora": LORA}


def trained_weights(module):
    """{name: value} of what a module trains, copied."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def write_adapter(folder, pair, seed=0, **lora):
    """A PEFT adapter with B·A ≠ 0 for the tiny pair."""
    torch.manual_seed(seed)
    model = get_peft_model(pair.load_model(), LoraConfig(**LORA | {"task_type": "CAUSAL_LM"} | lora))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return str(folder)
