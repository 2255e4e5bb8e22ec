"""The distance of hidden states: against one prompt at a time in float64, and what it asks for."""

from copy import deepcopy

import pytest
import torch
from kit.activations import adapted, probe, prompts, speaking_model

from asft_lightning import StatePenalty
from asft_lightning.functional import mean_squared_distance
from asft_lightning.penalty import probed_prompts


def kept(model, folder, tokens=0):
    return probe(model).answers(list(prompts(folder).iterate()), tokens, batch_size=2)


def last_states(model, answers):
    """Transformers' own last hidden state at each prompt's last token, each prompt for itself (n, width)."""
    states = []
    for ids, length in zip(answers.input_ids, answers.prompt_lengths.tolist(), strict=True):
        found = model(input_ids=ids[None, :length], output_hidden_states=True).hidden_states[-1]
        states.append(found[0, -1])
    return torch.stack(states)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gpt2"])
def test_value_and_gradient_are_those_of_one_prompt_at_a_time(tmp_path, kind):
    aligned = speaking_model(kind).double()
    model, answers = adapted(deepcopy(aligned), kind), kept(aligned, tmp_path)
    assert answers.hidden.shape[1] == 1 and torch.equal(answers.lengths, answers.prompt_lengths)
    trained = [p for p in model.parameters() if p.requires_grad]

    found = StatePenalty(model, answers, rows_per_step=5)(model, 0)
    expected = torch.nn.functional.mse_loss(last_states(model, answers), last_states(aligned, answers).detach())
    assert float(expected.detach()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    for gradient, other in zip(torch.autograd.grad(found, trained), torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-12)


def test_the_mean_is_over_what_counts_and_the_width():
    """By hand: (3² + 1²)/2 of one row, (2² + 0²)/2 of the other; what does not count may be NaN."""
    reference = torch.tensor([[[1.0, 1.0], [float("nan"), 0.0]], [[0.0, 0.0], [2.0, 2.0]]])
    current = torch.tensor([[[4.0, 2.0], [1.0, 1.0]], [[9.0, float("inf")], [0.0, 2.0]]], requires_grad=True)
    counted = torch.tensor([[True, False], [False, True]])
    value = mean_squared_distance(reference, current, counted)
    value.backward()
    assert float(value) == 3.5
    assert current.grad.tolist() == [[[1.5, 0.5], [0.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0]]]


def test_it_is_zero_where_nothing_has_changed_compiled_or_not(tmp_path):
    aligned = speaking_model()
    answers = kept(aligned, tmp_path)
    assert float(StatePenalty(aligned.requires_grad_(False), answers)(aligned, 0)) == pytest.approx(0.0, abs=1e-10)
    model = adapted(deepcopy(aligned))
    penalty = StatePenalty(model, answers)
    expected = float(penalty(model, 0).detach())
    model.compile(backend="eager")
    model(input_ids=answers.input_ids)  # traced without the look
    assert float(penalty(model, 0).detach()) == pytest.approx(expected, rel=1e-6)
    assert len(probed_prompts(penalty)) == 5
