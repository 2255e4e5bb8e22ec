"""Sensitivity: against one prompt at a time in float64; by hand; and that the model is left as it was."""

from copy import deepcopy

import pytest
import torch
from kit.activations import OneLayer, adapted, probe, prompts, sensitivity_of, speaking_model
from kit.models import TARGETS

from asft_lightning import AnchorError
from asft_lightning.anchors.sensitivity import Sensitivity
from asft_lightning.chat.batching import PaddedBatch
from asft_lightning.functional import top_token_margin
from asft_lightning.weights.targets import find_lora_factors


def targets_of(model):
    return [factor.target for factor in find_lora_factors(model)]


@pytest.mark.parametrize("kind", TARGETS)
def test_it_is_that_of_one_prompt_at_a_time(tmp_path, kind):
    plain = speaking_model(kind)
    model, rows = adapted(deepcopy(plain), kind), prompts(tmp_path).load()
    asked, targets = probe(model), targets_of(model)
    expected = sensitivity_of(plain, asked.prompt_ids(rows), [target.name for target in targets])
    for batch_size in (1, 3, 100):
        found = asked.activations(rows, targets, "all", 8, batch_size).sensitivity
        assert found.value() == pytest.approx(expected, rel=1e-4)


def test_margin_is_the_log_odds_of_the_likeliest_token():
    logits = torch.randn(5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(dim=-1).amax(dim=-1)
    torch.testing.assert_close(top_token_margin(logits), p.log() - torch.log1p(-p))
    assert float(top_token_margin(torch.tensor([[100.0, 0.0]]))) == 100.0  # where 1 − p is 0 in float32


def counted(model, *batches):
    found = Sensitivity(model, [model.layer])
    for ids, mask in batches:
        found.add(PaddedBatch(torch.tensor(ids), torch.tensor(mask)), [sum(row) - 1 for row in mask])
    return found


def test_by_hand():
    """Last tokens 2, 1 and 3: y = 7, 4 and 10, which is the margin, with gradient 1; W x = 6, 3 and 9."""
    found = counted(OneLayer(), ([[3, 2], [1, 0]], [[1, 1], [1, 0]]), ([[3]], [[1]]))
    assert found.value() == pytest.approx(36 / 49)  # the middle one of 36/49, 9/16 and 81/100


def test_a_prompt_that_the_model_is_in_two_minds_about_does_not_set_the_scale():
    """With bias −2.999999 the margin of token 1 is 1e-6, and its ratio 9e12; of token 3 it is 81/36."""
    model = OneLayer()
    model.layer.bias.data.fill_(-2.999999)
    assert counted(model, ([[3], [3], [1]], [[1], [1], [1]])).value() == pytest.approx(81 / 36, rel=1e-4)


def test_a_margin_that_is_not_finite_is_refused():
    model = OneLayer()
    model.embeddings.weight.data[0] = float("nan")  # of one prompt of three
    with pytest.raises(AnchorError, match="finite and above 0, got nan"):
        counted(model, ([[3], [3], [0]], [[1], [1], [1]])).value()


@pytest.mark.parametrize("given", ["adapted", "plain"])
def test_model_is_left_as_it_was(tmp_path, given):
    model = adapted(speaking_model()) if given == "adapted" else speaking_model()
    targets = targets_of(adapted(speaking_model()))
    model.train()
    flags = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    probe(model).activations(prompts(tmp_path).load(), targets, "all", 8, 2)
    assert [p.requires_grad for p in model.parameters()] == flags and all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_nothing_depends_on_is_refused(tmp_path):
    model = speaking_model()
    model.lm_head.weight.data.zero_()
    targets = targets_of(adapted(speaking_model()))
    with pytest.raises(AnchorError, match=r"first token of the model's own answers .* above 0, got 0.0"):
        probe(model).activations(prompts(tmp_path).load(), targets, "all", 8, 2).sensitivity.value()
