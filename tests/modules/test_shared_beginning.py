"""Rows that begin alike have that run once for all of them: the same loss and the same gradient, in float64."""

import pytest
import torch
from kit.models import tiny_model, train_factors, with_lora
from transformers import AutoModelForCausalLM, MambaConfig

from asft_lightning.modules.ready_batch import BEGINNING, ready
from asft_lightning.modules.task_loss import TaskLoss

ALIKE, ROWS = 20, 12
CLOSE = {"rtol": 1e-5, "atol": 1e-9}  # the norms and rotary angles of some are float32 in a float64 model too
ARCHITECTURES = [
    ("llama", {}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}),
    ("gemma2", {"sliding_window": 12}),
    ("gpt2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
]


def rows_that_begin_alike(vocabulary=32, count=ROWS, alike=ALIKE, learnt_from=24):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (count, 30), generator=generator)
    ids[:, :alike] = ids[0, :alike].clone()
    ids[0, alike], ids[1:, alike] = 0, 1
    labels = torch.where(torch.arange(30) < learnt_from, -100, ids)
    mask = torch.ones_like(ids)
    mask[-1, 27:] = 0
    labels[-1, 27:] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def counted(model):
    """How many tokens each forward pass of the model's trunk is given."""
    tokens = []
    trunk = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model

    def count(_, args, given):
        tokens.append((*args, *given.values())[0].shape)

    trunk.register_forward_pre_hook(count, with_kwargs=True)
    return tokens


def value_and_gradient(loss, model, batch):
    model.zero_grad()
    value = loss(model, batch)
    value.backward()
    return value, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduction", ["token", "row"])
@pytest.mark.parametrize(("kind", "settings"), ARCHITECTURES)
def test_loss_and_gradient_are_those_of_whole_rows(kind, settings, reduction):
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    model = with_lora(tiny_model(kind, **settings).double(), target_modules=targets).train()
    train_factors(model)
    model.double()
    batch, tokens = rows_that_begin_alike(), counted(model)
    shared = value_and_gradient(TaskLoss(reduction), model, ready(batch))
    assert tokens == [(1, ALIKE), (ROWS, 30 - ALIKE)]
    whole = value_and_gradient(TaskLoss(reduction), model, batch)
    assert tokens[2:] == [(ROWS, 30)]
    assert shared[1].keys() == whole[1].keys() and len(whole[1]) > 0
    torch.testing.assert_close(shared, whole, **CLOSE)


def test_so_are_those_of_all_weights():
    model, batch = tiny_model().double().train(), rows_that_begin_alike()
    tokens = counted(model)
    shared, whole = (value_and_gradient(TaskLoss(), model, given) for given in (ready(batch), batch))
    assert tokens == [(1, ALIKE), (ROWS, 30 - ALIKE), (ROWS, 30)]
    torch.testing.assert_close(shared, whole, **CLOSE)


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        ({}, ALIKE),
        ({"learnt_from": 18}, 17),  # the first token that is learnt is told by the one before it
        ({"alike": 15}, 15),
        ({"count": 1}, 0),
    ],
)
def test_how_much_is_alike(change, alike):
    assert ready(rows_that_begin_alike(**change))[BEGINNING] == alike


def test_padding_before_the_rows_and_rows_in_a_line_are_no_beginning():
    batch = rows_that_begin_alike()
    before = {**batch, "attention_mask": batch["attention_mask"].flip(1)}
    packed = {name: batch[name] for name in ("input_ids", "labels")} | {"position_ids": torch.arange(30).expand(ROWS, 30)}
    assert [ready(other)[BEGINNING] for other in (before, packed)] == [0, 0]


def mamba():
    return AutoModelForCausalLM.from_config(MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2))


def test_a_model_that_cannot_go_on_from_a_beginning_is_tried_once():
    model, batch, loss = mamba().train(), rows_that_begin_alike(), TaskLoss()
    tokens = counted(model)
    found = value_and_gradient(loss, model, ready(batch))
    loss(model, ready(batch))
    assert tokens == [(1, ALIKE), (ROWS, 30), (ROWS, 30)]
    torch.testing.assert_close(found, value_and_gradient(loss, model, batch), rtol=0, atol=0)


def checkpointing():
    model = tiny_model()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def compiled():
    model = tiny_model()
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("make", [checkpointing, compiled])
def test_what_is_run_twice_or_compiled_is_run_whole(make):
    model, batch = make().train(), rows_that_begin_alike()
    tokens = counted(model)
    found = value_and_gradient(TaskLoss(), model, ready(batch))
    assert set(tokens) == {(ROWS, 30)}
    torch.testing.assert_close(found, value_and_gradient(TaskLoss(), model, batch), rtol=1e-5, atol=1e-6)


def test_a_few_tokens_are_run_again():
    """A pass of their own would take longer."""
    model, batch = tiny_model().train(), rows_that_begin_alike(count=10)
    tokens = counted(model)
    TaskLoss()(model, ready(batch))
    assert tokens == [(10, 30)]


def test_what_else_a_model_is_told_is_not_lost():
    """Token types, a mask of one's own, and the like: such a batch is run whole."""
    model, batch = tiny_model().train(), rows_that_begin_alike()
    tokens = counted(model)
    TaskLoss()(model, {**ready(batch), "cache_position": torch.arange(30)})
    assert tokens == [(ROWS, 30)]
