"""What a checkpoint holds, going on from one, and going on from an adapter."""

import pytest
import torch
from kit import models, tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel

from asft_lightning import AsFT, ConfigurationError, LoRAFineTuner, Pretrained

KINDS = [LoRAFineTuner, AsFT]


def decaying(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def fit(module, pair, folder, ckpt_path=None, **settings):
    saving = ModelCheckpoint(folder, save_last=True, filename="best")
    trainer = tiny_trainer(folder, callbacks=[saving], enable_checkpointing=True, **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_holds_what_was_trained(pretrained, tmp_path, kind):
    module = fine_tuner(kind, pretrained)
    fit(module, pretrained, tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]

    assert saved.keys() == trained_weights(module).keys()
    assert all(torch.equal(saved[name], value) for name, value in trained_weights(module).items())


def test_modules_to_save_are_kept_too(pretrained):
    module = fine_tuner(LoRAFineTuner, pretrained, lora=tiny.LORA | {"modules_to_save": ["lm_head"]})
    module.configure_model()
    assert sorted(module.state_dict()) == sorted(trained_weights(module))
    assert any("lm_head" in name for name in module.state_dict())


class StopAfter(Callback):
    """Ends a run early, as a person would."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_named_scheduler_goes_on_where_it_was(pretrained, tmp_path):
    def module():
        torch.manual_seed(0)
        return fine_tuner(AsFT, pretrained, lr_scheduler="linear")

    whole, first, second = module(), module(), module()
    torch.manual_seed(1)
    fit(whole, pretrained, tmp_path / "whole", max_epochs=3)
    torch.manual_seed(1)
    data = tiny_data(pretrained, tmp_path / "parts", batch_size=4)
    saving = ModelCheckpoint(tmp_path / "parts", save_last=True, filename="best")
    callbacks = [saving, StopAfter(2)]
    tiny_trainer(tmp_path / "parts", callbacks=callbacks, enable_checkpointing=True, max_epochs=3).fit(first, data)
    fit(second, pretrained, tmp_path / "parts", max_epochs=3, ckpt_path=tmp_path / "parts" / "last.ckpt")

    assert not all(torch.equal(value, trained_weights(whole)[name]) for name, value in trained_weights(first).items())
    assert all(torch.equal(value, trained_weights(whole)[name]) for name, value in trained_weights(second).items())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_equals_the_uninterrupted_one(pretrained, tmp_path, kind, dropout):
    """Stopped at the end of an epoch; with a warm-up, a schedule and optimizer state that all go on."""

    def module():
        torch.manual_seed(0)
        settings = {"lambda_warmup_steps": 6} if kind is AsFT else {}
        lora = tiny.LORA | {"lora_dropout": dropout}
        return fine_tuner(kind, pretrained, lora=lora, lr_scheduler=decaying, **settings)

    whole, first, second = module(), module(), module()
    torch.manual_seed(1)
    fit(whole, pretrained, tmp_path / "whole", max_epochs=3)
    torch.manual_seed(1)
    fit(first, pretrained, tmp_path / "parts", max_epochs=2)
    torch.manual_seed(99)  # another process would not be in the state the first one ended in
    trainer = fit(second, pretrained, tmp_path / "parts", max_epochs=3, ckpt_path=tmp_path / "parts" / "last.ckpt")

    assert trainer.global_step == 12
    for name, value in trained_weights(whole).items():
        assert not torch.equal(value, trained_weights(first)[name])
        assert torch.equal(value, trained_weights(second)[name]), name


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.slow
def test_run_resumed_at_any_step_equals_the_uninterrupted_one(pretrained, tmp_path, at, accumulate):
    """Steps 1 to 3 lie within the first epoch of 4 batches (its end at accumulation 2 is step 2)."""
    seen = []

    class Remembering(AsFT):
        def task_loss(self, batch):
            seen.append(batch["input_ids"].tolist())
            return super().task_loss(batch)

    def run(folder, steps, **settings):
        torch.manual_seed(0)
        module = fine_tuner(Remembering, pretrained, lora=tiny.LORA | {"lora_dropout": 0.2})
        saving = ModelCheckpoint(folder, save_last=True, every_n_train_steps=at)
        trainer = tiny_trainer(
            folder, callbacks=[saving], enable_checkpointing=True, max_epochs=9, max_steps=steps,
            accumulate_grad_batches=accumulate,
        )  # fmt: skip
        trainer.fit(module, tiny_data(pretrained, folder, batch_size=4), **settings)
        return trained_weights(module)

    whole = run(tmp_path / "whole", 7)
    batches = seen.copy()
    seen.clear()
    run(tmp_path / "parts", at)
    parts = run(tmp_path / "parts", 7, ckpt_path=tmp_path / "parts" / "last.ckpt")

    assert seen == batches
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_of_another_adapter(pretrained, tmp_path, kind):
    fit(fine_tuner(kind, pretrained), pretrained, tmp_path)
    other = fine_tuner(kind, pretrained, lora=tiny.LORA | {"target_modules": ["k_proj", "v_proj"]})
    with pytest.raises(ConfigurationError, match=r"lora.target_modules .*q_proj.* not .*k_proj"):
        fit(other, pretrained, tmp_path, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(
        ConfigurationError, match=r"exactly the trained weights .* differs in 8 of them.*Resume with the lora"
    ):
        other.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_of_another_rank(pretrained, tmp_path, kind):
    fit(fine_tuner(kind, pretrained), pretrained, tmp_path)
    other = fine_tuner(kind, pretrained, lora=tiny.LORA | {"r": 2})
    with pytest.raises(ConfigurationError, match=r"lora.r 4, not 2"):
        fit(other, pretrained, tmp_path, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_an_adapter(pretrained, tmp_path, kind):
    """It starts where the adapter is (B ≠ 0), of the adapter's own settings, and goes on from there."""
    path = tiny.write_adapter(tmp_path / "adapter", pretrained, r=3)
    start = PeftModel.from_pretrained(pretrained.load_model(), path)
    expected = {f"model.{name}": p.detach().clone() for name, p in start.named_parameters() if "lora_" in name}
    module = fine_tuner(kind, pretrained, adapter=path)
    module.configure_model()

    assert trained_weights(module).keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in trained_weights(module).items())
    fit(module, pretrained, tmp_path / "run")
    assert any(not torch.equal(value, expected[name]) for name, value in trained_weights(module).items())


@pytest.mark.parametrize("adapter", ["/no/such/folder", "nobody/no-such-adapter"])
def test_adapter_out_of_reach(pretrained, tmp_path, adapter):
    with pytest.raises(ConfigurationError, match=rf"'{adapter}' must be a local path or a hub id within reach"):
        fit(fine_tuner(LoRAFineTuner, pretrained, adapter=adapter), pretrained, tmp_path)


def test_adapter_of_another_model(pretrained, tmp_path):
    models.tiny_model("chat", 1, hidden_size=16).save_pretrained(tmp_path / "narrow")
    path = tiny.write_adapter(tmp_path / "adapter", Pretrained(str(tmp_path / "narrow")))
    with pytest.raises(ConfigurationError, match=r"adapter .*adapter does not fit .*aligned: .*size mismatch"):
        fit(fine_tuner(LoRAFineTuner, pretrained, adapter=path), pretrained, tmp_path)


def test_loading_weights_leaves_the_generators_alone(pretrained, tmp_path):
    module = fine_tuner(LoRAFineTuner, pretrained)
    fit(module, pretrained, tmp_path)
    before = torch.get_rng_state()
    module.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert torch.equal(torch.get_rng_state(), before)
