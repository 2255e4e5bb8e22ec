"""A beginning that is run once gives what whole texts give, one at a time in float64, whatever the architecture."""

import pytest
import torch
from kit.activations import speaking_model
from kit.models import tiny_model
from transformers import AutoModelForCausalLM, MambaConfig

from asft_lightning.evaluation import generate_ids
from asft_lightning.evaluation.likelihood import answer_log_likelihoods
from asft_lightning.evaluation.shared_beginning import SharedBeginning

BEGINNING = [(7 * i) % 31 for i in range(20)]


def texts(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [BEGINNING + torch.randint(32, (length,), generator=generator).tolist() for length in lengths]


KINDS = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}),
        ("gemma2", {"sliding_window": 12}),
        ("gpt2", {}),
    ],
)


@KINDS
@torch.no_grad()
def test_what_follows_a_beginning_comes_out_as_of_whole_texts(kind, settings):
    model = tiny_model(kind, **settings).double()
    shared = SharedBeginning(model)
    for batch in (texts(5, 1, 9), texts(25, 30)):
        inputs, last = shared.inputs(batch)
        found = model(**inputs, output_hidden_states=True)

        assert inputs["input_ids"].shape[1] == max(map(len, batch)) - len(BEGINNING)
        for row, text in enumerate(batch):
            alone = model(torch.tensor([text]), output_hidden_states=True)
            torch.testing.assert_close(found.logits[row, last[row]], alone.logits[0, -1], rtol=1e-9, atol=1e-11)
            for layer, expected in zip(found.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(layer[row, last[row]], expected[0, -1], rtol=1e-9, atol=1e-11)


@KINDS
def test_answers_and_their_likelihoods_go_on_from_a_beginning(kind, settings, tokenizer):
    model = speaking_model(kind, **settings)
    run = []
    model.get_input_embeddings().register_forward_hook(lambda _, args, out: run.append(args[0].numel()))
    prompts = texts(5, 1, 9, 25, 30)
    told = {"max_new_tokens": 8, "batch_size": 3}

    expected = [generate_ids(model, tokenizer, [prompt], **told)[0] for prompt in prompts]
    run.clear()
    assert generate_ids(model, tokenizer, prompts, **told, beginning=SharedBeginning(model)) == expected
    assert "sliding_window" in settings or sum(run) < sum(map(len, prompts))

    model = model.double()
    alone = [answer_log_likelihoods(model, [prompt], [said])[0] for prompt, said in zip(prompts, expected, strict=True)]
    found = answer_log_likelihoods(model, prompts, expected, batch_size=3, beginning=SharedBeginning(model))
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-11)


def test_likelihoods_of_answers_that_begin_alike():
    """The beginning ends before the first answer token: nothing that is asked for is left out."""
    model = tiny_model().double()
    answers = [[1, 2, 3], [1, 2, 3], [1, 2, 4]]
    expected = answer_log_likelihoods(model, [BEGINNING] * 3, answers)

    found = answer_log_likelihoods(model, [BEGINNING] * 3, answers, beginning=SharedBeginning(model))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@torch.no_grad()
def test_a_model_without_keys_and_values_is_given_whole_texts():
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2)
    batch = texts(4, 4)
    inputs, last = SharedBeginning(AutoModelForCausalLM.from_config(config).eval()).inputs(batch)

    assert inputs["input_ids"].tolist() == batch
    assert last.tolist() == [23, 23]


def test_texts_that_hardly_begin_alike_are_given_whole():
    batch = [[1, 2, 3], [1, 2], [1, 2, 4]]
    inputs, last = SharedBeginning(tiny_model()).inputs(batch)
    assert inputs["input_ids"].tolist() == [[1, 2, 3], [1, 2, 0], [1, 2, 4]]
    assert last.tolist() == [2, 1, 2]
