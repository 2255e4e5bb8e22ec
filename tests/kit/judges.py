"""Labelled answers that a tiny classifier can learn to tell apart, and what trains one on them."""

from lightning import seed_everything
from transformers import BertConfig, BertModel

from asft_lightning import JudgeTrainer, LabelledDataModule, Pretrained, Source
from kit import tiny

LABELS = ["theft", "fraud"]


def labelled_rows(count=48):
    """A lock in the answer is theft, a card fraud; there may be both, or none."""
    parts = [("take the lock", ["theft"]), ("use the card", ["fraud"]), ("lock and card", ["theft", "fraud"]), ("no", [])]
    return [{"q": f"how {i}", "a": text, "kinds": kinds} for i in range(count) for text, kinds in (parts[i % len(parts)],)]


def labelled_source(folder, name="labelled", count=48):
    return Source(tiny.write_rows(folder / f"{name}.jsonl", labelled_rows(count)), "{q}", "{a}", category="kinds")


def labelled_data(folder, **settings):
    usual = {"labels": LABELS, "train": labelled_source(folder), "val_rows": 16, "batch_size": 8, "seed": 0}
    return LabelledDataModule(**usual | settings)


def judge_trainer(pair, **settings):
    return JudgeTrainer(pair, **{"text": "{prompt}: {answer}", "optimizer": tiny.fast_adamw, "max_length": 64, **settings})


def save_encoder(folder):
    """A tiny BERT without a head and with random weights, and the tiny tokenizer."""
    seed_everything(0, verbose=False)
    sizes = {"vocab_size": 262, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(**sizes, **dropout, pad_token_id=0, initializer_range=0.1)
    BertModel(config).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return Pretrained(str(folder))
