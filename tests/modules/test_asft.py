"""AsFT with a real Trainer: what it logs, λ over time and over micro-batches, hooks, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from kit.tiny import logged_run as run

from asft_lightning import AnchorError, AsFT, ConfigurationError, Gram, Harmful, Pretrained, Shrinkage, UnpenalisedError


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def dense_shrinkage(module):
    """Σ ‖BA‖²_F of every layer, dense and in float64."""
    weights = {name: value.double() for name, value in trained_weights(module).items()}
    products = [b @ weights[name.replace("lora_B", "lora_A")] for name, b in weights.items() if "lora_B" in name]
    return float(sum((product**2).sum() for product in products))


def test_each_step_is_logged(pretrained, tmp_path):
    steps = run(fine_tuner(AsFT, pretrained, lambda_reg=3.0), pretrained, tmp_path, max_epochs=2)

    assert [row["step"] for row in steps] == list(range(8))
    assert {"train/task_loss", "train/penalty", "train/penalty_ratio", "train/lambda"} <= steps[0].keys()
    assert steps[0]["train/penalty"] == 0.0
    assert all(row["train/penalty"] > 0 for row in steps[1:])
    assert all(row["train/lambda"] == 3.0 for row in steps)
    for row in steps:
        assert row["train/penalty_ratio"] == pytest.approx(3.0 * row["train/penalty"] / row["train/task_loss"], rel=1e-5)


def test_logged_penalty_is_that_of_the_factors(pretrained, tmp_path):
    """With next to no rate the factors stay those of the adapter, whose ‖BA‖² is computed here."""
    module = fine_tuner(
        AsFT,
        pretrained,
        anchors=[Shrinkage()],
        adapter=tiny.write_adapter(tmp_path / "adapter", pretrained),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-30),
    )
    steps = run(module, pretrained, tmp_path)
    assert dense_shrinkage(module) > 0.1
    assert [row["train/penalty"] for row in steps] == pytest.approx([dense_shrinkage(module)] * 4, rel=1e-5)


@pytest.mark.filterwarnings("ignore:lambda_warmup_steps should be at most the run's")
@pytest.mark.parametrize(
    ("warmup", "accumulate", "expected"),
    [(0, 1, [2, 2, 2, 2]), (1, 1, [2, 2, 2, 2]), (4, 1, [0.5, 1, 1.5, 2]), (8, 1, [0.25, 0.5, 0.75, 1]), (4, 2, [0.5, 1])],
)
def test_lambda_grows_with_optimizer_steps(pretrained, tmp_path, warmup, accumulate, expected):
    module = fine_tuner(AsFT, pretrained, lambda_reg=2.0, lambda_warmup_steps=warmup)
    steps = run(module, pretrained, tmp_path, accumulate_grad_batches=accumulate)
    assert [row["train/lambda"] for row in steps] == expected


@pytest.mark.filterwarnings("ignore:.*without protection")
def test_stronger_penalty_smaller_update(pretrained, tmp_path):
    sizes = []
    for strength in (0.0, 1.0, 100.0):
        module = fine_tuner(AsFT, pretrained, lambda_reg=strength)
        run(module, pretrained, tmp_path / str(strength), max_epochs=3)
        sizes.append(dense_shrinkage(module))
    assert sizes[0] > 1.1 * sizes[1] > 1.1 * 1.1 * sizes[2]


class PenaltyAlone(AsFT):
    """A task without a gradient: what the optimizer sees is λ's share alone."""

    def task_loss(self, batch):
        return super().task_loss(batch) * 0

    def on_before_optimizer_step(self, optimizer):
        self.seen = [p.grad.clone() for p in self.trainable_parameters()]


@pytest.mark.parametrize("anchor", [Gram(), Shrinkage()])
def test_penalty_gradient_does_not_depend_on_accumulation(pretrained, tmp_path, anchor):
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    seen = {}
    for batch_size, accumulate in ((8, 1), (2, 4)):
        module = fine_tuner(PenaltyAlone, pretrained, lambda_reg=3.0, anchors=[anchor], adapter=adapter, optimizer=sgd)
        trainer = tiny_trainer(tmp_path, accumulate_grad_batches=accumulate, max_steps=1)
        trainer.fit(module, tiny_data(pretrained, tmp_path, num_rows=8, batch_size=batch_size))
        seen[accumulate] = module.seen

    fresh = fine_tuner(AsFT, pretrained, anchors=[anchor], adapter=adapter)
    fresh.configure_model()
    fresh.bind(fresh.build_anchors())
    expected = torch.autograd.grad(3.0 * fresh.penalty(), fresh.trainable_parameters())
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-2
    for gradients in seen.values():
        torch.testing.assert_close(gradients, list(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", [sgd, lambda p: torch.optim.AdamW(p, lr=5e-5, weight_decay=0.0)], ids=["SGD", "AdamW"])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 4), (4, 2), (1, 8)])
def test_row_loss_gives_the_same_step_at_any_accumulation(pretrained, tmp_path, optimizer, batch_size, accumulate):
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    ends = []
    for size, parts in ((8, 1), (batch_size, accumulate)):
        module = fine_tuner(AsFT, pretrained, adapter=adapter, optimizer=optimizer, loss_reduction="row")
        trainer = tiny_trainer(tmp_path, accumulate_grad_batches=parts)
        trainer.fit(module, tiny_data(pretrained, tmp_path, num_rows=8, batch_size=size))
        assert trainer.global_step == 1
        ends.append(torch.cat([value.flatten() for value in trained_weights(module).values()]))

    assert float((ends[0] - ends[1]).norm() / ends[0].norm()) < 1e-5


def test_overridden_hooks_take_part(pretrained, tmp_path):
    class Halving(AsFT):
        def current_lambda(self):
            return self.lambda_reg / 2**self.global_step

        def regularisation(self):
            self.log("train/also", 7.0)
            return super().regularisation()

    steps = run(fine_tuner(Halving, pretrained, lambda_reg=8.0), pretrained, tmp_path)
    assert [row["train/lambda"] for row in steps] == [8, 4, 2, 1]
    assert [row["train/also"] for row in steps] == [7, 7, 7, 7]


def test_sum_of_anchors_from_arguments(pretrained, tmp_path):
    module = fine_tuner(AsFT, pretrained, anchors=[Gram(), Shrinkage(weight=0.5)])
    run(module, pretrained, tmp_path)
    recorded = module.fingerprint()

    assert [anchor["class"] for anchor in recorded["anchors"]] == ["Gram", "Shrinkage"]
    assert (tmp_path / "anchors.safetensors").is_file()
    assert recorded["anchors_sha256"] == module.build_anchors().sha256()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_reg": -1.0}, r"must be numbers ≥ 0, got -1.0 and 0. The paper's λ is 1"),
        ({"lambda_reg": float("nan")}, r"must be numbers ≥ 0, got nan and 0"),
        ({"lambda_warmup_steps": -5}, r"must be numbers ≥ 0, got 1.0 and -5"),
        ({"anchors": [Gram()], "anchor_file": "a.safetensors"}, r"not both: got anchors and anchor_file 'a.safetensors'"),
    ],
)
def test_strengths_that_cannot_be(pretrained, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        AsFT(pretrained, **settings)


def test_it_does_not_start_from_the_base_model(pretrained):
    with pytest.raises(ConfigurationError, match=r"pretrained.start is base: there is nothing to keep. Leave start at"):
        AsFT(replace(pretrained, start="base"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"lora": tiny.LORA | {"use_dora": True}},
            UnpenalisedError,
            r"must be B·A on a linear weight.*DoRA.*Use plain LoRA",
        ),
        ({"lora": tiny.LORA | {"lora_bias": True}}, UnpenalisedError, r"lora_B.*bias.* would be trained as well"),
        ({"lora": tiny.LORA | {"modules_to_save": ["lm_head"]}}, UnpenalisedError, r"lm_head.*would be trained as well"),
        ({"anchors": []}, ConfigurationError, r"needs something to hold the model by, and anchors is an empty list"),
    ],
)
def test_runs_that_would_not_be_protected_do_not_start(pretrained, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        tiny_trainer(tmp_path).fit(fine_tuner(AsFT, pretrained, **settings), tiny_data(pretrained, tmp_path))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, r"needs both checkpoints, and `base` is not given. Name it under `pretrained`, .* use Shrinkage or"),
        ("aligned", r"V = W_aligned − W_base must not be 0.*Did you name one checkpoint twice\?"),
    ],
)
def test_no_direction_no_training(pretrained, tmp_path, base, message):
    pair = Pretrained(pretrained.aligned, base and pretrained.aligned)
    with pytest.raises(AnchorError, match=message):
        tiny_trainer(tmp_path).fit(fine_tuner(AsFT, pair), tiny_data(pair, tmp_path))
    run(fine_tuner(AsFT, pair, anchors=[Shrinkage()]), pair, tmp_path / "shrinkage")


def test_without_its_penalty_it_does_not_train(pretrained, tokenizer):
    module = fine_tuner(AsFT, pretrained)
    module.configure_model()
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(UnpenalisedError, match=r"must not train without its penalty: call bind\(build_anchors\(\)\) first"):
        module.training_step({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}, 0)


def protected(pretrained, folder, **settings):
    torch.manual_seed(0)
    module = fine_tuner(AsFT, pretrained, **settings)
    tiny_trainer(folder).fit(module, tiny_data(pretrained, folder))
    return module


def test_anchors_of_a_file_protect_like_those_built_here(pretrained, tmp_path):
    here = protected(pretrained, tmp_path / "here", anchors=[Gram()])
    kept = tmp_path / "here" / "anchors.safetensors"
    for location in (kept, kept.parent):  # a file, or a folder as of a repository
        there = protected(pretrained, tmp_path / "there", anchor_file=str(location))
        assert there.fingerprint()["anchors_sha256"] == here.fingerprint()["anchors_sha256"]
        assert there.fingerprint()["anchors"] == here.fingerprint()["anchors"]
        expected = trained_weights(here)
        assert all(torch.equal(value, expected[name]) for name, value in trained_weights(there).items())


def test_anchors_of_another_model_do_not_protect(pretrained, tmp_path):
    protected(pretrained, tmp_path / "here")
    other = replace(pretrained, aligned=pretrained.base, base=pretrained.aligned)
    with pytest.raises(AnchorError, match=r"must be built from the aligned model that is trained.*anchors build"):
        protected(other, tmp_path / "there", anchor_file=str(tmp_path / "here"))


def test_harmful_anchors_of_another_model_do_not_protect(pretrained, tmp_path):
    adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
    protected(pretrained, tmp_path / "here", anchors=[Harmful(adapter=adapter)])
    other = replace(pretrained, aligned=pretrained.base)
    with pytest.raises(AnchorError, match=r"must be built from the aligned model that is trained"):
        protected(other, tmp_path / "there", anchor_file=str(tmp_path / "here"))


def test_a_strength_of_zero_says_that_nothing_protects(pretrained, tmp_path):
    with pytest.warns(UserWarning, match="this run trains without protection"):
        protected(pretrained, tmp_path, lambda_reg=0.0)


def test_ddp_does_not_broadcast_the_anchors(pretrained, tmp_path):
    module = protected(pretrained, tmp_path)
    buffers = {name for name, _ in module.named_buffers() if name.startswith("penalty.")}
    assert buffers and buffers == set(module._ddp_params_and_buffers_to_ignore)
