"""Conflict: each row's gradient and its cosine against PEFT's, one row at a time in float64; and the model left alone."""

import pytest
import torch
from kit.models import TARGETS, factors_of, tiny_model, with_lora

from asft_lightning import AnchorError
from asft_lightning.audit.row_conflicts import RowConflicts
from asft_lightning.audit.row_gradients import RowGradients
from asft_lightning.chat.rows import Row
from asft_lightning.data.collate import AnswerOnlyCollator
from asft_lightning.data.example import Example
from asft_lightning.functional import IGNORE_INDEX

RANK = 3
LLAMA = [f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")]


def rows(count, seed=0):
    """Rows of different lengths, prompts and answers; one has two answers."""
    draw = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        ids = torch.randint(3, 32, (4 + 3 * (i % 4),), generator=draw).tolist()
        asked = 2 + i % 2
        labels = [IGNORE_INDEX] * asked + ids[asked:]
        if i == 2:
            labels[asked + 2] = IGNORE_INDEX
        examples.append(Example(ids, labels, Row("", "")))
    return examples


def conflict_scores(model, some, **settings):
    return torch.cat([torch.empty(0), *map(RowConflicts(model, **settings), some)])


def batches(examples, size=100):
    collate = AnswerOnlyCollator(0)
    return [collate(examples[start : start + size]) for start in range(0, len(examples), size)]


def model_of(kind="llama"):
    return tiny_model(kind, initializer_range=0.3).double()


def names_of(kind):
    return list(factors_of(with_lora(model_of(kind), target_modules=TARGETS[kind])))


def naive(kind, examples, factors):
    """{layer: dL/dB (rows, d_out, rank)}, by PEFT's layers, a row at a time and without padding."""
    model = with_lora(model_of(kind), r=RANK, lora_alpha=RANK, target_modules=TARGETS[kind]).double()
    for name, factor in factors.items():
        model.get_submodule(f"base_model.model.{name}").lora_A["default"].weight.data = factor.clone()
    found = {name: [] for name in factors}
    for example in examples:
        model.zero_grad()
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]  # Transformers' own loss is in float32
        torch.nn.functional.cross_entropy(logits, torch.tensor(example.labels[1:])).backward()
        for name, kept in found.items():
            kept.append(model.get_submodule(f"base_model.model.{name}").lora_B["default"].weight.grad.clone())
    return {name: torch.stack(kept) for name, kept in found.items()}


@pytest.mark.parametrize("kind", TARGETS)
def test_gradients_are_those_of_one_row_at_a_time(kind):
    gradients, examples, found = RowGradients(model_of(kind), names_of(kind), RANK), rows(7), {}
    gradients(batches(examples)[0], found.__setitem__)
    expected = naive(kind, examples, gradients.factors)
    assert found.keys() == expected.keys() and len(found) == 2 * len(TARGETS[kind]) + 2 * (kind == "gpt2")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


def unit(matrices):
    return matrices / matrices.norm(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_are_mean_cosines_with_harmful_rows_less_those_with_benign_rows_and_refusals(kind):
    sets = train, harmful, benign, refusals = [rows(7), rows(3, seed=1), rows(5, seed=2), rows(4, seed=3)]
    targets, model = names_of(kind), model_of(kind)
    drawn = RowGradients(model, targets, RANK)
    drawn(batches(train)[0], lambda name, found: None)
    found = [naive(kind, examples, drawn.factors) for examples in sets]
    expected = torch.zeros(7, dtype=torch.float64)
    for name in targets:
        of_train, *of_anchors = (unit(of_set[name]) for of_set in found)
        for share, anchors in zip((1, -0.5, -0.5), of_anchors, strict=True):
            direction = anchors.mean(dim=0).flatten()
            expected += share * torch.cosine_similarity(of_train.flatten(1), direction[None]) / (2 * len(targets))
    for size in (1, 3, 100):
        anchors = {"harmful": batches(harmful, size), "benign": batches(benign, size), "refusals": batches(refusals, size)}
        scores = conflict_scores(model, batches(train, size), targets=targets, rank=RANK, **anchors)
        torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)


def test_a_row_scores_high_where_it_teaches_what_harmful_rows_teach():
    model, harmful, benign = model_of(), rows(4, seed=1), rows(4, seed=2)
    anchors = {"harmful": batches(harmful), "benign": batches(benign), "refusals": batches(rows(4, seed=3))}
    found = conflict_scores(model, batches([*harmful, *benign]), targets=LLAMA, **anchors)
    assert found[:4].min() > 0 > found[4:].max()


def scored(model, **changes):
    settings = {name: batches(rows(2, seed)) for seed, name in enumerate(("rows", "harmful", "benign", "refusals"))}
    settings |= {"targets": LLAMA} | changes
    return conflict_scores(model, settings.pop("rows"), **settings)


def state_of(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return [m.training for m in model.modules()], hooks, flags, torch.get_rng_state().tolist(), torch.is_grad_enabled()


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(fails):
    model = model_of().train()
    model.model.layers[0].eval()
    model.lm_head.requires_grad_(False)
    if fails:
        model.model.embed_tokens.weight.data[3:] = float("nan")
    before = state_of(model)
    if fails:
        with pytest.raises(AnchorError, match=r"gradients that are finite.*bfloat16"):
            scored(model)
    else:
        scored(model)
    assert state_of(model) == before


def test_half_precision_is_multiplied_in_single():
    exact = scored(model_of())
    found = scored(model_of().bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.05)


def test_a_layer_that_is_absent_is_named():
    with pytest.raises(AnchorError, match=r"model\.layers\.7\.q_proj"):
        scored(model_of(), targets=["model.layers.7.q_proj"])


def test_anchors_that_do_not_differ_are_refused():
    same = batches(rows(2, seed=1))
    with pytest.raises(AnchorError, match="rows that differ"):
        scored(model_of(), harmful=same, benign=same)


def test_rows_to_compare_with_are_needed():
    with pytest.raises(AnchorError, match="got none of one"):
        scored(model_of(), benign=[])


class Routed(torch.nn.Module):
    """Gives its one expert the tokens of all rows as a list."""

    def __init__(self, expert):
        super().__init__()
        self.expert = expert

    def forward(self, x):
        return self.expert(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def test_a_layer_that_tokens_are_routed_to_is_refused():
    model = model_of()
    model.model.layers[0].mlp.down_proj = Routed(model.model.layers[0].mlp.down_proj)
    with pytest.raises(
        AnchorError, match=r"0\.mlp\.down_proj\.expert: conflict needs layers that see every token at its place"
    ):
        scored(model, targets=["model.layers.0.mlp.down_proj.expert"])
