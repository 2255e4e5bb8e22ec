"""TaskLoss against Transformers' own loss and against the formula written out."""

import pytest
import torch
from kit import models, tiny
from peft import LoraConfig, get_peft_model
from torch import nn

from asft_lightning import ConfigurationError, Template
from asft_lightning.chat.rows import Row
from asft_lightning.data import AnswerOnlyCollator, Example
from asft_lightning.modules import TaskLoss

ROWS = [
    Row("hi", "ok"),
    Row("a much longer prompt", "no"),
    Row("why?", "because it is so, and always was"),
    Row("x" * 30, "y"),
]


class AllLogits(nn.Module):
    """A model whose forward knows nothing of ``logits_to_keep``."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, use_cache):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


@pytest.fixture
def batch(tokenizer):
    return AnswerOnlyCollator(0)([Example(*Template().render(tokenizer, row)[:2], row) for row in ROWS])


@pytest.fixture
def model():
    found = get_peft_model(models.tiny_model("chat", 1), LoraConfig(**tiny.LORA, task_type="CAUSAL_LM"))
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return found


def gradients(loss, model):
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def by_formula(model, batch, reduction):
    """Mean over all tokens, or over rows of their means, from the log-probability of each answer token."""
    log_p = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    rows = []
    for i, labels in enumerate(batch["labels"]):
        at = [t for t in range(len(labels)) if labels[t] != -100]
        rows.append(torch.stack([-log_p[i, t - 1, labels[t]] for t in at]))
    return torch.cat(rows).mean() if reduction == "token" else torch.stack([row.mean() for row in rows]).mean()


@pytest.mark.parametrize("wrap", [lambda model: model, AllLogits], ids=["logits_to_keep", "all logits"])
def test_token_mean_is_transformers_loss(model, batch, wrap):
    loss, theirs = TaskLoss()(wrap(model), batch), model(**batch).loss

    torch.testing.assert_close(loss, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(loss, model), gradients(theirs, model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["token", "row"])
@pytest.mark.parametrize("wrap", [lambda model: model, AllLogits], ids=["logits_to_keep", "all logits"])
def test_both_reductions_by_their_formula(model, batch, reduction, wrap):
    loss, formula = TaskLoss(reduction)(wrap(model), batch), by_formula(model, batch, reduction)

    torch.testing.assert_close(loss, formula, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(loss, model), gradients(formula, model), rtol=1e-4, atol=1e-6)


def test_reductions_differ_where_answers_differ_in_length(model, batch):
    assert abs(float(TaskLoss("token")(model, batch) - TaskLoss("row")(model, batch))) > 1e-3


def test_row_mean_is_the_mean_over_micro_batches(model, batch):
    parts = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(len(ROWS))]
    mean = torch.stack([TaskLoss("row")(model, part) for part in parts]).mean()
    torch.testing.assert_close(mean, TaskLoss("row")(model, batch), rtol=1e-6, atol=0)


def test_padding_does_not_matter(model, batch):
    wider = {
        "input_ids": nn.functional.pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 5)),
        "labels": nn.functional.pad(batch["labels"], (0, 5), value=-100),
    }
    torch.testing.assert_close(TaskLoss()(model, wider), TaskLoss()(model, batch), rtol=1e-6, atol=0)


def test_loss_of_bfloat16_logits_is_float32(batch):
    assert TaskLoss()(models.tiny_model("chat", 1).bfloat16(), batch).dtype == torch.float32


def test_unknown_reduction():
    with pytest.raises(ConfigurationError, match=r"loss_reduction must be one of token, row, got 'sum'"):
        TaskLoss("sum")
