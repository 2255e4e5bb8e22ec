"""Greedy answers in batches, and the state of everything around them."""

import random

import numpy as np
import pytest
import torch
from kit import models, tiny
from peft import LoraConfig, get_peft_model
from torch import nn

from asft_lightning import ConfigurationError, Template, generate_answers
from asft_lightning.chat.rows import trimmed
from asft_lightning.evaluation import generate_ids
from asft_lightning.runtime.undisturbed import undisturbed

LENGTHS = (3, 17, 5, 5, 1, 29, 2, 11, 8, 23)


@pytest.fixture(scope="module")
def prompts():
    """Random bytes, of very different lengths and in no order."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(40, 100, (n,), generator=generator).tolist() for n in LENGTHS]


@pytest.fixture
def model():
    return models.tiny_model("chat", 1)


@torch.no_grad()
def one_by_one(model, tokenizer, prompt, new_tokens):
    """The independent reference: the best token again and again, without padding, cache or batch."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return trimmed(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_answers_are_those_of_one_prompt_at_a_time_in_their_order(model, tokenizer, prompts, batch_size):
    expected = [one_by_one(model, tokenizer, prompt, 12) for prompt in prompts]

    assert len(set(expected)) > 5
    assert generate_answers(model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size) == expected


def test_answer_ends_at_the_end_token(model, tokenizer, prompts):
    """The head's row of the end token is made that of a token the model says, so that it says the end instead."""
    said = model(torch.tensor([prompts[0]]), use_cache=False).logits[0, -1].argmax()
    with torch.no_grad():
        model.lm_head.weight[2] = model.lm_head.weight[said] * 1.1

    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=12)
    assert answers == [one_by_one(model, tokenizer, prompt, 12) for prompt in prompts]
    assert answers[0] == ""


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        {"do_sample": True, "temperature": 5.0, "top_k": 0},
        {"do_sample": True, "top_p": 0.8, "repetition_penalty": 3.0},
        {"num_beams": 3},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 12, "max_new_tokens": 3},
        {"suppress_tokens": list(range(40, 150))},
    ],
)
def test_checkpoint_that_asks_for_something_else_is_still_greedy(model, tokenizer, prompts, asked, adapted):
    """As Llama-2-Chat's and Qwen2-Instruct's generation_config.json do."""
    expected = generate_answers(models.tiny_model("chat", 1), tokenizer, prompts, max_new_tokens=12)
    model.generation_config.update(**asked)
    asking = get_peft_model(model, LoraConfig(**tiny.LORA, task_type="CAUSAL_LM")) if adapted else model

    assert generate_answers(asking, tokenizer, prompts, max_new_tokens=12) == expected
    assert all(getattr(model.generation_config, key) == value for key, value in asked.items())


@pytest.mark.parametrize("told", ["checkpoint", "caller"])
def test_further_end_tokens_end_an_answer(model, tokenizer, prompts, told):
    """As Llama-3's ``<|eot_id|>`` beside ``<|end_of_text|>``, or one that a template teaches; it is not in the answer."""
    (said,) = generate_ids(model, tokenizer, prompts[:1], max_new_tokens=12, batch_size=1)
    end = next(token for token in said if token != said[0])
    if told == "checkpoint":
        model.generation_config.eos_token_id = [2, end]
    ends = [] if told == "checkpoint" else [end]

    (answer,) = generate_answers(model, tokenizer, prompts[:1], max_new_tokens=12, ends=ends)
    assert answer == trimmed(tokenizer.decode(said[: said.index(end)]))
    (ids,) = generate_ids(model, tokenizer, prompts[:1], max_new_tokens=12, batch_size=1, ends=ends)
    assert ids == said[: said.index(end)]


def test_adapter_takes_part_in_the_answers(tokenizer, prompts):
    peft_model = get_peft_model(models.tiny_model("chat", 1), LoraConfig(**tiny.LORA, task_type="CAUSAL_LM"))
    before = generate_answers(peft_model, tokenizer, prompts, max_new_tokens=8)
    assert before == generate_answers(models.tiny_model("chat", 1), tokenizer, prompts, max_new_tokens=8)

    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    assert generate_answers(peft_model, tokenizer, prompts, max_new_tokens=8) != before


def test_no_prompts_no_answers(model, tokenizer):
    assert generate_answers(model, tokenizer, []) == []


def mixed_modes():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Dropout())
    model.train()
    model[1].training = False  # its own flag, not its children's
    model[2].eval()
    return model


def rng_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


class InterruptionError(Exception):
    """Raised inside, as a user's Ctrl-C or a judge's error would be."""


@pytest.mark.parametrize("fails", [False, True])
def test_undisturbed_puts_modes_and_generators_back(fails):
    model = mixed_modes()
    modes, states = [module.training for module in model.modules()], rng_states()
    assert modes == [True, True, False, True, True, False]
    try:
        with undisturbed(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            torch.rand(3), np.random.rand(3), random.random()
            torch.manual_seed(7), np.random.seed(7), random.seed(7)
            if fails:
                raise InterruptionError
    except InterruptionError:
        assert fails

    assert [module.training for module in model.modules()] == modes
    assert rng_states() == states
    assert torch.is_grad_enabled()


def test_generating_leaves_no_trace(model, tokenizer, prompts):
    model.train()
    model.model.layers[1].eval()
    modes, states = [module.training for module in model.modules()], rng_states()
    generate_answers(model, tokenizer, prompts, max_new_tokens=4)

    assert [module.training for module in model.modules()] == modes
    assert rng_states() == states
    assert all(p.grad is None for p in model.parameters())


def test_token_id_beyond_the_embedding():
    """On a GPU it would be an assertion of a kernel, after which no other call works."""
    with pytest.raises(ConfigurationError, match=r"prompts and their padding: .* below the 262 .*, got 262\. Is"):
        generate_answers(models.tiny_model("chat", 1), tiny.tiny_tokenizer(), [[1, 262]])


@pytest.mark.parametrize("opening", ["", "item "])
def test_prompts_that_are_texts_are_written_as_in_training(model, tokenizer, opening):
    """And an answer ends where the template ends it, which is not always where the tokenizer does."""
    texts, template = ["say item 1", "how are you"], Template("chat", system="Be kind.")
    ids = [template.prompt_ids(tokenizer, text, opening=opening) for text in texts]
    settings = {"max_new_tokens": 12, "opening": opening}
    expected = generate_answers(model, tokenizer, ids, ends=[template.end(tokenizer).token_id], **settings)
    assert len(set(expected)) == 2
    assert generate_answers(model, tokenizer, texts, template=template, **settings) == expected
    assert generate_answers(model, tokenizer, [texts[0], ids[1]], template=template, **settings) == expected
