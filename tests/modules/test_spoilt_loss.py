"""A loss that becomes NaN: the run stops with the rows of that batch, and no spoilt adapter is ever written."""

import json

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from peft import LoraConfig

from asft_lightning import AdapterCheckpoint, AsFT, ConfigurationError, LoRAFineTuner, TrainingError
from asft_lightning.callbacks.run_cost import RunCost
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary


class Spoil(Callback):
    """Makes a frozen weight NaN before a step, as a damaged memory or an overflow would, and keeps the factors so far."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.kept = trained_weights(pl_module)
            next(p for p in pl_module.model.parameters() if not p.requires_grad).data.fill_(float("nan"))


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
def test_run_stops_before_a_weight_is_spoilt(pretrained, tmp_path, kind):
    spoil, module = Spoil(step=2), fine_tuner(kind, pretrained)
    callbacks = [spoil, AdapterCheckpoint(), ModelCheckpoint(tmp_path / "kept", save_last=True, every_n_train_steps=1)]
    trainer = tiny_trainer(tmp_path, callbacks=callbacks, max_epochs=2, enable_checkpointing=True)
    with pytest.raises(TrainingError, match=r"must be a finite number, and at step 2 it is not \(task loss nan") as error:
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    rows = [json.loads(line)["text"] for line in (tmp_path / "spoilt-batch-rank0.jsonl").read_text().splitlines()]

    assert str(tmp_path / "spoilt-batch-rank0.jsonl") in str(error.value)
    assert len(rows) == 4
    assert all("<|user|>" in row and "<|assistant|>" in row for row in rows)
    for name, weight in spoil.kept.items():
        assert torch.equal(trained_weights(module)[name], weight)
    assert not (tmp_path / "adapter").exists()
    saved = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_penalty_that_is_no_number_is_named(pretrained, tmp_path):
    """Of the two parts of the loss, the error says which it was."""
    module = fine_tuner(AsFT, pretrained)

    class SpoilAnchors(Callback):
        def on_train_start(self, trainer, pl_module):
            for buffer in pl_module.penalty.buffers():
                buffer.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"\(task loss \d.*, λ·penalty nan\)"):
        tiny_trainer(tmp_path, callbacks=[SpoilAnchors()]).fit(module, tiny_data(pretrained, tmp_path))


class SpoilGradient(Callback):
    """Makes a gradient Inf, or another, under a loss that is finite, as an overflow in the backward pass would."""

    def __init__(self, step, gradient=float("inf")):
        self.step, self.gradient = step, gradient

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            optimizer.param_groups[0]["params"][0].grad.fill_(self.gradient)


@pytest.mark.parametrize("saving", [{"every_n_train_steps": 1}, {"every_n_epochs": 1}], ids=["by steps", "by epochs"])
@pytest.mark.parametrize("step", [2, 3], ids=["before the last step", "in the last step"])
def test_gradient_that_is_not_finite_spoils_nothing_that_is_kept(pretrained, tmp_path, saving, step):
    """A run of two epochs of two steps: the last good checkpoint stays, nothing says that the run has come to its end."""
    saver = ModelCheckpoint(tmp_path / "kept", save_last=True, **saving)
    callbacks = [SpoilGradient(step), AdapterCheckpoint(), RunCost(), saver]
    trainer = tiny_trainer(tmp_path, callbacks=callbacks, max_epochs=2, enable_checkpointing=True)
    with pytest.raises(TrainingError, match=rf"trained weights must be finite, and after step {step + 1} .*lora_A.* is not"):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path, batch_size=8))
    assert not (tmp_path / "adapter").exists()
    assert not Summary.read(RunFolder(tmp_path)).run.ended
    saved = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == (step if "every_n_train_steps" in saving else 2)
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_what_the_optimizer_keeps_is_finite_in_a_checkpoint(pretrained, tmp_path):
    """The square of such a gradient is not, though every weight is."""
    saver = ModelCheckpoint(tmp_path / "kept", save_last=True, every_n_train_steps=1)
    trainer = tiny_trainer(tmp_path, callbacks=[SpoilGradient(2, 1e25), saver], max_epochs=2, enable_checkpointing=True)
    with pytest.raises(TrainingError, match="trained weights must be finite, and after step 3 exp_avg_sq is not"):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path, batch_size=8))
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_adapter_that_is_not_finite_is_not_written(pretrained, tmp_path):
    """Whatever made it so after training, as a callback of another project."""

    class SpoilAdapter(Callback):
        def on_train_end(self, trainer, pl_module):
            next(p for p in pl_module.parameters() if p.requires_grad).data.fill_(float("nan"))

    trainer = tiny_trainer(tmp_path, callbacks=[SpoilAdapter(), AdapterCheckpoint()])
    with pytest.raises(TrainingError, match="trained weights must be finite"):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("rate", [0.0, float("inf"), float("nan"), -1.0])
def test_rate_that_would_not_train_is_refused(pretrained, tmp_path, rate):
    module = fine_tuner(LoRAFineTuner, pretrained, optimizer=lambda p: torch.optim.SGD([{"params": p, "lr": 1.0}], lr=1.0))
    build = module._optimizer

    def with_rate(parameters):
        optimizer = build(parameters)
        optimizer.param_groups[0]["lr"] = rate  # torch itself refuses some, when it is made
        return optimizer

    module._optimizer = with_rate
    with pytest.raises(ConfigurationError, match=r"a learning rate must be a positive number, got .*5e-5 is the paper's"):
        tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path))


@pytest.mark.parametrize(
    ("lora", "rule"),
    [
        ({"lora_alpha": 0}, "lora_alpha must be a positive number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a positive number"),
        ({"alpha_pattern": {"q_proj": 0}}, "lora_alpha must be a positive number"),
        ({"lora_dropout": 1.0}, "lora_dropout must be 0 or more and below 1"),
        ({"lora_dropout": float("nan")}, "lora_dropout must be 0 or more and below 1"),
    ],
)
@pytest.mark.parametrize("form", [dict, lambda arguments: LoraConfig(**arguments)], ids=["mapping", "LoraConfig"])
def test_lora_that_would_not_train_is_refused(pretrained, lora, rule, form):
    with pytest.raises(ConfigurationError, match=rule):
        LoRAFineTuner(pretrained, form({"target_modules": ["q_proj"], **lora}))
