"""ConstrainedSFT with a Trainer: against the objective by hand, resumed, accumulated, packed, and what is refused."""

from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.tiny import LORA, EndAfter, fine_tuner, logged_run, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import ConfigurationError, ConstrainedSFT, LoRAFineTuner, UnpenalisedError


@pytest.fixture
def exact(pretrained):
    """The tiny pair in float64: what differs is then more than rounding."""
    return replace(pretrained, dtype="float64")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def objective(model, aligned, batch):
    """−Σ (2/β_t) log σ(β_t log π/π_ref) over all answer tokens, one by one, through to their mean."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    log_p, log_ref = (net(**inputs).logits.log_softmax(-1) for net in (model, aligned))
    parts = []
    for row, labels in enumerate(batch["labels"].tolist()):
        learnt = [t for t, label in enumerate(labels) if label != -100]
        for place, t in enumerate(learnt):
            beta = 0.5 if place == 0 else 2.0 if place < 5 else 0.1
            gained = log_p[row, t - 1, labels[t]] - log_ref[row, t - 1, labels[t]].detach()
            parts.append(-2 / beta * torch.nn.functional.logsigmoid(beta * gained))
    return torch.stack(parts).mean()


def by_hand(pair, folder, adapter):
    """The paper's algorithm: {name: weight} after an epoch of plain SGD."""
    torch.manual_seed(0)
    module = fine_tuner(LoRAFineTuner, pair, adapter=adapter)
    module.configure_model()
    aligned = pair.load_model()
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer, data = sgd(list(weights.values())), tiny_data(pair, folder, batch_size=4)
    data.setup()
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        objective(module.model, aligned, batch).backward()
        optimizer.step()
    return {name: p.detach() for name, p in weights.items()}


@pytest.mark.parametrize("goes_on", [False, True])
def test_run_is_the_papers_algorithm(exact, tmp_path, goes_on):
    """The second model is the aligned one, by itself, also where an adapter goes on. No weight comes down to the least."""
    adapter = tiny.write_adapter(tmp_path / "adapter", exact) if goes_on else None
    expected = by_hand(exact, tmp_path, adapter)
    torch.manual_seed(0)
    module = fine_tuner(ConstrainedSFT, exact, adapter=adapter, optimizer=sgd)
    steps = logged_run(module, exact, tmp_path)
    for name, weight in trained_weights(module).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-7, atol=1e-10)
    weights = [step["train/token_weight"] for step in steps]
    assert (weights[0] == pytest.approx(1.0)) == (not goes_on)
    assert all(abs(weight - 1) > 1e-3 for weight in weights[1:])
    assert module.fingerprint()["first_betas"] == [0.5, 2.0, 2.0, 2.0, 2.0]


def test_a_step_leaves_no_trace_but_its_gradient(pretrained, tmp_path):
    """The adapter is on again, trained as before, and dropout draws as without the other forward pass."""

    def drawn(kind):
        torch.manual_seed(0)
        module = fine_tuner(kind, pretrained, lora=LORA | {"lora_dropout": 0.3})
        logged_run(module, pretrained, tmp_path / kind.__name__)
        return module, torch.get_rng_state()

    (module, state), (plain, expected) = drawn(ConstrainedSFT), drawn(LoRAFineTuner)
    assert torch.equal(state, expected)
    assert list(trained_weights(module)) == list(trained_weights(plain))
    assert any(bool(w.any()) for name, w in trained_weights(module).items() if "lora_B" in name)


def test_validation_is_by_the_plain_loss(pretrained, tmp_path):
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    losses = []
    for kind in (ConstrainedSFT, LoRAFineTuner):
        trainer = tiny_trainer(tmp_path)
        data = tiny_data(pretrained, tmp_path, val_rows=8)
        losses += trainer.validate(fine_tuner(kind, pretrained, adapter=adapter), data, verbose=False)
    assert losses[0] == losses[1] and losses[0]["val/task_loss"] > 0


def trained(pair, folder, batch_size, pieces, packing=False):
    torch.manual_seed(0)
    module = fine_tuner(ConstrainedSFT, pair, loss_reduction="row", optimizer=sgd)
    trainer = tiny_trainer(folder, max_epochs=2, accumulate_grad_batches=pieces)
    trainer.fit(module, tiny_data(pair, folder, batch_size=batch_size, packing=packing))
    assert trainer.global_step == 4
    return trained_weights(module)


@pytest.mark.parametrize("other", [(2, 4, False), (8, 1, True)], ids=["accumulated", "packed"])
def test_accumulation_and_packing_change_nothing(exact, tmp_path, other):
    whole, parts = trained(exact, tmp_path, 8, 1), trained(exact, tmp_path, *other)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("ended_after", [2, 3, 5])
def test_a_resumed_run_is_the_same_run(pretrained, tmp_path, ended_after):
    def fit(folder, callbacks=(), checkpoint=None):
        torch.manual_seed(0)
        module = fine_tuner(ConstrainedSFT, pretrained, lora=LORA | {"lora_dropout": 0.3})
        saver = ModelCheckpoint(folder, save_last=True, save_on_exception=True, every_n_train_steps=1000)
        trainer = tiny_trainer(
            folder, callbacks=[saver, *callbacks], max_epochs=2, enable_checkpointing=True, accumulate_grad_batches=2
        )
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4), ckpt_path=checkpoint)
        return trained_weights(module)

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="ended"):
        fit(tmp_path / "run", [EndAfter(ended_after)])
    again = fit(tmp_path / "run", checkpoint=next((tmp_path / "run").glob("*.ckpt")))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize(
    "settings", [{"beta": 0.0}, {"beta": float("nan")}, {"first_betas": (1.0, -2.0)}, {"least_weight": 1.5}]
)
def test_settings_that_cannot_be(pretrained, settings):
    with pytest.raises(ConfigurationError, match=r"ConstrainedSFT needs beta and first_betas above 0 and least_weight in 0"):
        ConstrainedSFT(pretrained, **settings)


def test_a_start_from_the_base_model_is_refused(pretrained):
    with pytest.raises(ConfigurationError, match=r"ConstrainedSFT keeps an aligned model aligned, and pretrained.start is"):
        ConstrainedSFT(replace(pretrained, start="base"))


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        ({"lora_bias": True}, ConfigurationError, r"the factors of an adapter alone, .*bias.* would be trained as well"),
        ({"modules_to_save": ["lm_head"]}, ConfigurationError, r"lm_head.* would be trained as well\. Freeze that"),
        ({"init_lora_weights": "pissa"}, UnpenalisedError, r"which changes the base weight"),
    ],
)
def test_what_would_not_be_the_aligned_model_without_its_adapter(pretrained, lora, error, message):
    with pytest.raises(error, match=message):
        fine_tuner(ConstrainedSFT, pretrained, lora=LORA | lora).configure_model()
