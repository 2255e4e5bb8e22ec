"""The task's gradient and that of what protects, with a Trainer: against one step in float64, and what must not be."""

from copy import deepcopy

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights, write_adapter
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from asft_lightning import Activation, Answers, AsFT, ConfigurationError, Shrinkage

WEIGHT, LAMBDA, RATE = 5.0, 0.5, 0.1


@pytest.fixture(scope="module")
def adapter(pretrained, tmp_path_factory):
    """One that has already moved: the answers' gradient has a direction at the first step."""
    return write_adapter(tmp_path_factory.mktemp("adapter"), pretrained, seed=1)


@pytest.fixture
def answers(tmp_path):
    return Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=4, weight=WEIGHT)


class Double(Callback):
    """Both gradients of the first step in float64, by autograd, each micro-batch for itself."""

    def __init__(self):
        self.task = self.protection = None

    def on_train_start(self, trainer, pl_module):
        self.model = deepcopy(pl_module.model).double()
        self.answers = deepcopy(pl_module.answer_penalty)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step:
            return
        trained = [p for p in self.model.parameters() if p.requires_grad]
        task = self.vector(pl_module._task_loss(self.model, batch) / trainer.accumulate_grad_batches, trained)
        self.task = task if self.task is None else self.task + task
        factors = dict(self.model.named_parameters())
        updates = [
            factors[name.replace("lora_A", "lora_B")] @ a
            for name, a in factors.items()
            if "lora_A" in name and pl_module.penalty is not None
        ]
        forms = sum((update.square().sum() for update in updates), start=torch.zeros(()).double())
        protection = WEIGHT * self.answers(self.model, 0) + LAMBDA * forms
        self.protection = self.vector(protection, trained)

    def vector(self, loss, trained):
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trained)])

    def projected(self):
        inner = self.task @ self.protection
        assert float(inner) < 0, "the case must have a conflict"
        return self.task - inner / self.protection.square().sum() * self.protection + self.protection


def step(pair, folder, adapter, answers, conflict="project", callbacks=(), batch_size=2, **settings):
    """The weights before a step of plain gradient descent minus those after it, by the rate: the gradient (n,)."""
    own = ("accumulate_grad_batches", "gradient_clip_val", "plugins")
    trainer = {name: settings.pop(name) for name in own if name in settings}
    sgd = lambda p: torch.optim.SGD(p, lr=RATE)  # noqa: E731
    module = fine_tuner(
        AsFT, pair, adapter=adapter, answers=answers, conflict=conflict, lambda_reg=LAMBDA, optimizer=sgd,
        **{"anchors": [], "loss_reduction": "row"} | settings,
    )  # fmt: skip
    module.configure_model()
    before = trained_weights(module)
    tiny_trainer(folder, max_steps=1, callbacks=list(callbacks), **trainer).fit(
        module, tiny_data(pair, folder, batch_size=batch_size)
    )
    after = trained_weights(module)
    return torch.cat([(before[name] - after[name]).flatten() / RATE for name in before]), module


CASES = {
    "one batch": {},
    "micro-batches": {"accumulate_grad_batches": 3},
    "checkpointing": {"gradient_checkpointing": True},
    "forms beside it": {"anchors": [Shrinkage()], "accumulate_grad_batches": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_formula_in_float64(pretrained, tmp_path, adapter, answers, case):
    double = Double()
    found, _ = step(pretrained, tmp_path, adapter, answers, callbacks=[double], **CASES[case])
    expected = double.projected()
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert float((found - double.task - double.protection).norm() / expected.norm()) > 1e-3


def test_adding_is_as_it_was(pretrained, tmp_path, adapter, answers):
    double = Double()
    found, _ = step(pretrained, tmp_path, adapter, answers, conflict="add", callbacks=[double])
    expected = double.task + double.protection
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_clipping_sees_what_was_combined(pretrained, tmp_path, adapter, answers):
    double = Double()
    found, _ = step(pretrained, tmp_path, adapter, answers, callbacks=[double], gradient_clip_val=0.1)
    expected = double.projected()
    assert float(expected.norm()) > 0.2
    torch.testing.assert_close(found.double(), expected * 0.1 / expected.norm(), rtol=1e-2, atol=1e-5)


def test_scaled_losses_are_scaled_alike_and_an_overflow_skips_the_step(pretrained, tmp_path, adapter, answers):
    """float16 with a scaler, on the CPU: one power of two is right, and a far too large one is lowered."""

    def gradient(folder, scale):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        return step(pretrained, folder, adapter, answers, callbacks=[double], plugins=[plugin])[0], plugin.scaler

    double = Double()
    found, scaler = gradient(tmp_path / "right", 2.0**8)
    assert scaler.get_scale() == 2.0**8
    assert float((found - double.projected()).norm() / double.projected().norm()) < 2e-2
    found, scaler = gradient(tmp_path / "large", 2.0**40)
    assert scaler.get_scale() == 2.0**39 and not found.any()


def test_the_cosine_is_logged(pretrained, tmp_path, answers):
    settings = {"anchors": [], "answers": answers}
    steps = tiny.logged_run(fine_tuner(AsFT, pretrained, conflict="project", **settings), pretrained, tmp_path / "project")
    assert steps[0]["train/conflict"] == 0.0  # nothing has changed yet
    assert all(0 < abs(step["train/conflict"]) <= 1 for step in steps[1:])
    assert "train/conflict" not in tiny.logged_run(fine_tuner(AsFT, pretrained, **settings), pretrained, tmp_path / "add")[0]


@pytest.mark.parametrize("settings", [{"conflict": "project", "anchors": [Shrinkage()]}, {"anchors": [], "answers": True}])
def test_an_optimizer_that_evaluates_a_step_again_is_refused(pretrained, tmp_path, answers, settings):
    settings = settings | ({"answers": answers} if "answers" in settings else {})
    module = fine_tuner(AsFT, pretrained, optimizer=torch.optim.LBFGS, **settings)
    with pytest.raises(ConfigurationError, match=r"an optimizer that evaluates a step once, and LBFGS does it again\. Use"):
        tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path))


def test_what_cannot_be_combined_is_refused(pretrained, tmp_path):
    with pytest.raises(ConfigurationError, match=r"conflict must be one of add, project, got 'drop'"):
        AsFT(pretrained, conflict="drop")
    limited = fine_tuner(
        AsFT, pretrained, anchors=[Activation(prompts=tiny.unsafe_prompts(tmp_path))], drift_budget=0.3, conflict="project"
    )
    with pytest.raises(ConfigurationError, match=r"conflict: project needs something with a gradient .* Leave conflict out"):
        tiny_trainer(tmp_path).fit(limited, tiny_data(pretrained, tmp_path))
