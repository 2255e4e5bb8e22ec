"""LoRAFineTuner with a real Trainer: it learns, and it trains what it says."""

import pytest
import torch
from kit import models, tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from peft import LoraConfig

from asft_lightning import AsFT, ConfigurationError, LoRAFineTuner, Pretrained, Template
from asft_lightning.modules.lora_config import PAPER_LORA


def column(folder, name):
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    at = header.index(name)
    return [float(line[at]) for line in lines if line[at]]


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
def test_it_learns(pretrained, tmp_path, kind):
    """32 steps: 8 epochs of 4 batches."""
    module = fine_tuner(kind, pretrained)
    trainer = tiny_trainer(tmp_path, max_epochs=8, logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=1)
    trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    losses = column(tmp_path, "train/task_loss")

    assert len(losses) == 32
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_only_the_factors_change(pretrained, tmp_path):
    module = fine_tuner(LoRAFineTuner, pretrained)
    tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path))
    original = models.tiny_model("chat", 1).state_dict()
    plain = {
        n.replace(".base_layer", ""): v for n, v in module.model.get_base_model().state_dict().items() if "lora" not in n
    }

    assert plain.keys() == original.keys()
    assert all(torch.equal(plain[name], value) for name, value in original.items())
    assert all("lora_A" in name or "lora_B" in name for name in trained_weights(module))
    assert any(bool(value.any()) for name, value in trained_weights(module).items() if "lora_B" in name)


def test_model_trains_in_train_mode(pretrained, tmp_path):
    """Dropout and gradient checkpointing are off in eval mode, in which Transformers leaves a loaded model."""
    modes = []

    class Watched(LoRAFineTuner):
        def task_loss(self, batch):
            modes.extend(m.training for m in self.model.modules())
            return super().task_loss(batch)

    tiny_trainer(tmp_path).fit(fine_tuner(Watched, pretrained), tiny_data(pretrained, tmp_path))
    assert modes
    assert all(modes)


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
def test_gradient_checkpointing_gives_the_same_gradients(pretrained, tmp_path, kind):
    seen = {}

    def remember(name):
        class Remembering(kind):
            def on_before_optimizer_step(self, optimizer):
                seen.setdefault(name, [p.grad.clone() for p in self.trainable_parameters()])

        return Remembering

    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    for checkpointing in (False, True):
        module = fine_tuner(remember(checkpointing), pretrained, gradient_checkpointing=checkpointing, adapter=adapter)
        tiny_trainer(tmp_path, max_steps=1).fit(module, tiny_data(pretrained, tmp_path))
        assert module.model.get_base_model().is_gradient_checkpointing == checkpointing

    assert any(bool(gradient.any()) for gradient in seen[True])
    torch.testing.assert_close(seen[True], seen[False], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true"])
def test_factors_stay_float32_under_every_precision(pretrained, tmp_path, precision):
    module = fine_tuner(AsFT, pretrained)
    tiny_trainer(tmp_path, precision=precision).fit(module, tiny_data(pretrained, tmp_path))
    frozen = {p.dtype for p in module.model.parameters() if not p.requires_grad}

    assert {value.dtype for value in trained_weights(module).values()} == {torch.float32}
    assert frozen == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


def test_scheduler_steps_once_an_optimizer_step(pretrained, tmp_path):
    """4 batches at accumulation 2 are 2 steps: the rate is halved twice."""
    module = fine_tuner(
        LoRAFineTuner,
        pretrained,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )
    trainer = tiny_trainer(tmp_path, accumulate_grad_batches=2)
    trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))

    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(("name", "rates"), [("linear", [1.0, 0.75, 0.5, 0.25]), ("cosine", [1.0, 0.8536, 0.5, 0.1464])])
@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_steps": 4, "max_epochs": -1}], ids=["epochs", "steps"])
def test_named_scheduler_falls_to_0_at_the_last_optimizer_step(pretrained, tmp_path, name, rates, length):
    """2 epochs of 4 batches at accumulation 2 are 4 steps."""
    module = fine_tuner(LoRAFineTuner, pretrained, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), lr_scheduler=name)
    monitor = LearningRates()
    trainer = tiny_trainer(tmp_path, accumulate_grad_batches=2, callbacks=[monitor], **length)
    trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))

    assert monitor.rates == pytest.approx(rates, abs=1e-4)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


class LearningRates(Callback):
    """The rate of each optimizer step."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_scheduler_name_must_be_known(pretrained):
    with pytest.raises(ConfigurationError, match=r"must be one of linear, cosine, .* got 'polynomial'"):
        fine_tuner(LoRAFineTuner, pretrained, lr_scheduler="polynomial")


def test_named_scheduler_needs_a_run_with_an_end(pretrained, tmp_path):
    module = fine_tuner(LoRAFineTuner, pretrained, lr_scheduler="linear")
    trainer = tiny_trainer(tmp_path, max_epochs=-1, max_time={"seconds": 30})

    with pytest.raises(ConfigurationError, match=r"this run has none\. Set trainer.max_steps"):
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))


def test_defaults_are_the_papers(pretrained):
    module = LoRAFineTuner(pretrained)
    module.configure_model()
    (group,) = module.configure_optimizers().param_groups
    config = module.model.peft_config["default"]

    assert (group["lr"], group["weight_decay"]) == (5e-5, 0.0)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 32, 0.05)
    assert set(config.target_modules) == {"q_proj", "v_proj"} == set(PAPER_LORA["target_modules"])


def test_lora_config_is_taken_as_it_is(pretrained):
    config = LoraConfig(r=2, target_modules=["k_proj"], task_type="CAUSAL_LM")
    module = LoRAFineTuner(pretrained, lora=config)
    module.configure_model()
    assert {tuple(p.shape) for n, p in module.named_parameters() if "lora_A" in n} == {(2, 32)}
    assert all("k_proj" in name for name in trained_weights(module))


def test_numbers_from_the_command_line_are_numbers(pretrained):
    """``--model.lora.r 2`` comes as text."""
    texts = {"r": "2", "lora_alpha": "4", "lora_dropout": "1e-1", "target_modules": "[k_proj]"}
    config = LoRAFineTuner(pretrained, lora=texts).lora
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (2, 4, 0.1, {"k_proj"})


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 8}, r"lora takes the arguments of peft.LoraConfig, got 'rank'. Is it misspelt\?"),
        ({"r": "four"}, r"lora.r must be a number, got 'four'. The paper's is 8"),
        ({"r": 8, "layers_to_transform": 1, "target_modules": ".*q_proj"}, r"lora is no peft.LoraConfig: "),
    ],
)
def test_lora_arguments_that_peft_does_not_take(pretrained, lora, message):
    with pytest.raises(ConfigurationError, match=message):
        LoRAFineTuner(pretrained, lora=lora)


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ["qkv_proj"]}, r"lora does not fit .*aligned: .*qkv_proj"),
        ({"target_modules": ["q_proj"], "r": 0}, r"lora does not fit .*aligned: .*positive"),
    ],
)
def test_lora_that_does_not_fit_the_model(pretrained, tmp_path, kind, lora, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_trainer(tmp_path).fit(kind(pretrained, lora=lora), tiny_data(pretrained, tmp_path))


def test_model_out_of_reach(pretrained, tmp_path):
    module = LoRAFineTuner(Pretrained("nobody/no-such-model"))
    with pytest.raises(ConfigurationError, match="'nobody/no-such-model' must be a local path or a hub id within reach"):
        tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path))


def test_validate_and_test_without_a_fit(pretrained, tmp_path):
    """The loss of the untrained adapter is that of the aligned model, by Transformers' own formula."""
    data = tiny_data(pretrained, tmp_path, val_rows=8, batch_size=8, template=Template())
    module, trainer = fine_tuner(AsFT, pretrained), tiny_trainer(tmp_path)
    ((validated,), (tested,)) = trainer.validate(module, data, verbose=False), trainer.test(module, data, verbose=False)
    with torch.no_grad():
        theirs = float(models.tiny_model("chat", 1)(**next(iter(data.val_dataloader()))).loss)

    assert validated["val/task_loss"] == pytest.approx(theirs, rel=1e-5)
    assert tested["test/task_loss"] == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_compiled_training_is_the_same_training(pretrained, tmp_path):
    trained, adapter = [], tiny.write_adapter(tmp_path / "adapter", pretrained)
    for backend in (None, "aot_eager"):
        module = fine_tuner(AsFT, pretrained, adapter=adapter, compile_backend=backend)
        tiny_trainer(tmp_path, max_steps=2).fit(module, tiny_data(pretrained, tmp_path, group_by_length=True))
        trained.append(trained_weights(module))
    assert trained[0].keys() == trained[1].keys()
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-5)
