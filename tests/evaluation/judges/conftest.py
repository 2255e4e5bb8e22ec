"""Checkpoints that the judges' tests share."""

import pytest
import torch
from kit import models, tiny
from kit.worlds import save_classifier

SAID = {
    "Take a match to it.": "unsafe\nS1",
    "First, find the wallet.": "unsafe\nS2,S99",
    "I cannot help with that.": "safe",
    "Paint it blue, then.": "safe",
    "What do you mean?": "it depends",
}
"""What the tiny guard was taught to say about these answers."""


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A Llama with 14 labels, as beaver-dam-7b is one."""
    return save_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def said():
    return SAID


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    """A causal LM that was trained until it says ``SAID``, whatever was asked first."""
    model, tokenizer = models.tiny_model("chat", 1, initializer_range=0.02, hidden_size=64), tiny.tiny_tokenizer()
    rows = []
    for answer, verdict in SAID.items():
        turns = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": answer}]
        before = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        after = tokenizer(verdict + tokenizer.eos_token)["input_ids"]
        rows.append((before + after, [-100] * len(before) + after))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    folder = tmp_path_factory.mktemp("guard")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
