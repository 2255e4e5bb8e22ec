"""Packed batches give the loss and the gradients of padded ones, on real architectures, or are refused."""

import pytest
import torch
from kit.tiny import LORA, fine_tuner, tiny_data, tiny_trainer, trained_weights
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MambaConfig, Qwen2Config

from asft_lightning import ConfigurationError, LoRAFineTuner, Template
from asft_lightning.chat.rows import Row
from asft_lightning.data import AnswerOnlyCollator, Example
from asft_lightning.modules import TaskLoss

ROWS = [
    Row("hi", "ok"),
    Row("a much longer prompt than the others, so that they fit beside each other", "no"),
    Row("why?", "because it is so"),
    Row("x" * 30, "y"),
    Row("what is the time?", "noon, or a little after"),
]
SMALL = {"vocab_size": 262, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "initializer_range": 0.2}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "gemma2": Gemma2Config(**SMALL, head_dim=8, sliding_window=16),  # shorter than the rows
    "gpt2": GPT2Config(vocab_size=262, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2),
}


def model_of(config, attention, targets):
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model = get_peft_model(plain, LoraConfig(**{**LORA, "target_modules": targets}, task_type="CAUSAL_LM")).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batches(tokenizer):
    examples = [Example(*Template().render(tokenizer, row)[:2], row) for row in ROWS]
    return AnswerOnlyCollator(0, packing=True)(examples), AnswerOnlyCollator(0)(examples)


def loss_and_gradients(model, batch, reduction):
    loss = TaskLoss(reduction)(model, batch)
    return loss, torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("reduction", ["token", "row"])
@pytest.mark.parametrize(
    ("name", "attention"), [(n, a) for n in CONFIGS for a in ("sdpa", "eager") if (n, a) != ("gemma2", "sdpa")]
)
def test_packed_is_padded_without_the_padding(tokenizer, name, attention, reduction):
    model = model_of(CONFIGS[name], attention, ["c_attn"] if name == "gpt2" else LORA["target_modules"])
    packed, padded = batches(tokenizer)
    (loss, gradients), (expected, expected_gradients) = (loss_and_gradients(model, b, reduction) for b in (packed, padded))

    assert packed["input_ids"].numel() < padded["input_ids"].numel()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert float((gradient - other).norm()) <= 1e-4 * float(other.norm())


class Leaky(torch.nn.Module):
    """A state-space model carries its state from one row into the next, whatever the positions say."""

    def __init__(self):
        super().__init__()
        config = MambaConfig(vocab_size=262, hidden_size=32, num_hidden_layers=2, state_size=4)
        self.inner = AutoModelForCausalLM.from_config(config)

    def forward(self, input_ids, position_ids=None, use_cache=False):
        return self.inner(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("equal_rows_first", [False, True])
def test_model_whose_rows_would_see_each_other_is_refused(tokenizer, equal_rows_first):
    """Also where the first batch has nothing to try it on."""
    loss, model = TaskLoss(), Leaky()
    if equal_rows_first:
        examples = [Example(*Template().render(tokenizer, Row(text, "ok"))[:2], Row(text, "ok")) for text in ("ab", "cd")]
        loss(model, AnswerOnlyCollator(0, packing=True)(examples))
    with pytest.raises(ConfigurationError, match=r"rows must not attend to each other, and in this model they do. Set data"):
        loss(model, batches(tokenizer)[0])


@pytest.mark.parametrize("settings", [{}, {"group_by_length": True}, {"batch_size": 5}])
def test_packed_run_ends_with_the_weights_of_a_padded_one(pretrained, tmp_path, settings):
    """But for the rounding of sums in another order, which AdamW makes larger."""
    ends = []
    for packing in (False, True):
        torch.manual_seed(0)
        module = fine_tuner(LoRAFineTuner, pretrained, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        data = tiny_data(pretrained, tmp_path, packing=packing, **{"batch_size": 8, **settings})
        tiny_trainer(tmp_path, max_epochs=3).fit(module, data)
        ends.append(trained_weights(module))
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=1e-4, atol=1e-5)


def test_check_of_separate_rows_leaves_no_trace(tokenizer):
    """Dropout is on in training: the check must neither see it nor draw from its generator."""
    model = model_of(CONFIGS["llama"], "sdpa", LORA["target_modules"]).train()
    packed, _ = batches(tokenizer)
    torch.manual_seed(5)
    loss = TaskLoss()
    loss(model, packed)
    drawn = torch.rand(3)
    torch.manual_seed(5)

    assert model.training
    assert torch.equal(drawn, torch.rand(3))
